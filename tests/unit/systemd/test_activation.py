"""Descriptors that a service manager passes.

Descriptors start at 3, which pytest uses: here are the refusals that come before a descriptor is
touched; test_serving.py has the rest, with a process of its own.
"""

from __future__ import annotations

import pytest

from graced.errors import ListenError
from graced.systemd import activation


def test_sockets_of_another_process_are_ignored() -> None:
    environ = {"LISTEN_PID": "1", "LISTEN_FDS": "3", "LISTEN_FDNAMES": "a:b:c", "OTHER": "stays"}
    assert activation.passed(environ, 2) == []
    assert environ == {"OTHER": "stays"}


def test_no_variables_mean_no_sockets() -> None:
    assert activation.passed({}, 1) == []
    assert activation.passed({"LISTEN_PID": "1"}, 1) == []


@pytest.mark.parametrize(
    ("names", "found"),
    [
        ("graced-listeners:graced-clients-0", ["graced-listeners", "graced-clients-0"]),
        ("one:", ["one", ""]),
        ("", ["", ""]),
        ("one", ["one", ""]),
        ("one:two:three", ["one", "two"]),
    ],
)
def test_each_descriptor_has_a_name(names: str, found: list[str]) -> None:
    environ = {"LISTEN_PID": "7", "LISTEN_FDS": "2", "LISTEN_FDNAMES": names, "OTHER": "stays"}
    assert activation.passed(environ, 7) == list(zip([3, 4], found, strict=True))
    assert environ == {"OTHER": "stays"}


def test_names_are_optional() -> None:
    assert activation.passed({"LISTEN_PID": "7", "LISTEN_FDS": "1"}, 7) == [(3, "")]


@pytest.mark.parametrize("number", ["many", "-1", "1 ", "\u0663", "9" * 5000])
def test_bad_number_of_descriptors_is_refused(number: str) -> None:
    with pytest.raises(ListenError, match="LISTEN_FDS must be a number of descriptors"):
        activation.passed({"LISTEN_PID": "1", "LISTEN_FDS": number}, 1)
