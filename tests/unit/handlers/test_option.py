"""The declaration of an option, and which values it takes."""

from __future__ import annotations

import math
from typing import Any

import pytest

import graced
from graced import Option


def test_option_is_public() -> None:
    assert graced.Option is Option


@pytest.mark.parametrize(
    ("option", "values"),
    [
        (Option("x", ""), ["", "y"]),
        (Option(True, ""), [False, True]),
        (Option(1, ""), [0, -7, 10**30]),
        (Option(1.0, ""), [0.5, -0.5]),
        (Option(1.0, "", low=0), [0.0]),
        (Option(5, "", low=0, high=5), [0, 5]),
        (Option("b", "", choices=("a", "b")), ["a"]),
        (Option([], ""), [[], [1, "a"]]),
        (Option(["a"], ""), [[], ["b", "c"]]),
        (Option(["a"], "", choices=("a", "b")), [["b", "a"], []]),
        (Option({}, ""), [{"a": 1}]),
        (Option(str, ""), ["a"]),
    ],
)
def test_value_that_fits(option: Option, values: list[Any]) -> None:
    for value in values:
        assert option.checked(value) == value


def test_whole_number_is_a_number() -> None:
    found = Option(1.5, "").checked(2)
    assert (found, type(found)) == (2.0, float)


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        (Option("x", ""), 1, "must be a string"),
        (Option(True, ""), 1, "must be true or false"),
        (Option(1, ""), True, "must be a whole number"),
        (Option(1, ""), 1.0, "must be a whole number"),
        (Option(1.0, ""), True, "must be a number"),
        (Option(1.0, ""), "1", "must be a number"),
        (Option(1, "", low=0), -1, "must be at least 0"),
        (Option(1, "", high=10), 11, "must be at most 10"),
        (Option(1, "", low=0, high=10), 11, "must be from 0 to 10"),
        (Option(1.0, "", low=0, high=10), math.nan, "must be from 0 to 10"),
        (Option("a", "", choices=("a", "b")), "c", "must be one of a, b"),
        (Option([], ""), "a", "must be a list"),
        (Option(["a"], ""), ["b", 1], "must be a list, and each item a string"),
        (Option(["a"], "", choices=("a", "b")), ["c"], "must be one of a, b"),
        (Option({}, ""), [], "must be a table"),
        (Option(str, ""), 1, "must be a string"),
    ],
)
def test_value_that_does_not_fit(option: Option, value: Any, words: str) -> None:
    with pytest.raises(ValueError, match=rf"^{words}$"):
        option.checked(value)


def test_check_returns_what_the_handler_gets() -> None:
    assert Option("1", "", check=int).checked("7") == 7


@pytest.mark.parametrize("default", [None, b"", (), object, 1j])
def test_option_has_a_type_of_toml(default: Any) -> None:
    with pytest.raises(TypeError, match=r"^an option must be true or false, a string, "):
        Option(default, "")


def test_only_a_number_has_a_range() -> None:
    with pytest.raises(TypeError, match=r"^only a number has a range"):
        Option("a", "", low=1)


def test_default_must_be_allowed() -> None:
    with pytest.raises(ValueError, match=r"^must be at least 1$"):
        Option(0, "", low=1)


@pytest.mark.parametrize(
    ("option", "words"),
    [
        (Option("a", ""), "a string"),
        (Option(1, "", low=0, high=10), "a whole number from 0 to 10"),
        (Option(1.5, "", low=0.25), "a number at least 0.25"),
        (Option("a", "", choices=("a", "b")), "a, b"),
        (Option(["a"], "", choices=("a", "b")), "any of a, b"),
    ],
)
def test_what_is_allowed_in_words(option: Option, words: str) -> None:
    assert option.allowed == words
