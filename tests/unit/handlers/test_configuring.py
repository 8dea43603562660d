"""The options of handlers: checked, named in errors, given to the handler."""

from __future__ import annotations

from typing import Any

import pytest

from graced import Option
from graced.errors import ConfigError
from graced.handlers import configuring, finder
from graced.handlers.registry import Handler
from support import options
from support.options import HERE


def _broken(value: Any) -> Any:
    raise TypeError(value)


FILE = "/etc/graced/conf.d/a.toml"


def configured(name: str, **written: Any) -> Handler:
    handler = finder.find(f"{HERE}:{name}", b"")
    configuring.configure(handler, name, {key: (value, FILE) for key, value in written.items()})
    return handler


@pytest.mark.parametrize("name", ["Stream", "Blocking"])
def test_defaults_are_filled_in(name: str) -> None:
    expected = {"word": "written", "number": 2}
    found = configured(name, word="written")
    assert found.options == expected
    # Under the name of the class, and not only of the subclass that graced makes of it.
    assert getattr(options, name).configured == expected


@pytest.mark.parametrize("name", ["Stream", "Blocking"])
@pytest.mark.parametrize(
    ("written", "reason"),
    [
        (
            {"wrod": "written"},
            "unknown key 'handler.wrod', allowed in [handler] for the handler {name} are"
            " word, number",
        ),
        ({"word": 7}, "handler.word must be a string, not 7"),
        ({"word": "x" * 99}, "handler.word must be one of default, written, again, not 'xxx"),
        ({"number": 101}, "handler.number must be from 0 to 100, not 101"),
        ({"number": 3}, "handler.number must be even, not 3"),
        ({"number": 42}, "[handler] number must not be the answer"),
    ],
)
def test_error_names_file_and_key(name: str, written: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        configured(name, **written)
    assert str(caught.value).startswith(f"{FILE}: {reason.format(name=name)}")
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("name", "written", "reason"),
    [
        ("Needy", {}, "the handler Needy needs handler.path in the configuration: the path of the"),
        ("Failing", {"a": 1}, r"handler 'Failing' fails in configure\(\): KeyError: 'no such"),
        ("Waiting", {}, r"handler 'Waiting' has an async configure\(\), which nobody would run"),
        (
            "Stranger",
            {"a": 1},
            f"{FILE}: unknown key 'handler.a', the handler Stranger has no options",
        ),
    ],
)
def test_handler_that_cannot_be_configured(name: str, written: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{reason}"):
        configured(name, **written)


def test_thread_would_be_dead_in_the_daemon() -> None:
    try:
        with pytest.raises(ConfigError, match=r"starts 1 thread in configure\(\), dead in the"):
            configured("Threaded")
    finally:
        options.Threaded.end.set()
        options.Threaded.thread.join()


def test_handler_that_declares_nothing_gets_what_is_written() -> None:
    assert configured("Lenient", a={"b": [1]}).options == {"a": {"b": [1]}}


def test_attributes_of_a_stranger_are_not_meant() -> None:
    assert configured("Stranger").options == {}


def test_declaration_must_be_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = {**options.Stream.options, "plain": 7}
    monkeypatch.setattr(options.Stream, "options", wrong)
    with pytest.raises(ConfigError, match=r"the option 'plain' is no graced\.Option$"):
        configured("Stream")


def test_check_that_fails_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(options.Stream, "options", {"a": Option(str, "", check=dict)})
    with pytest.raises(ConfigError, match=r"a\.toml: handler\.a "):
        configured("Stream", a="bcd")
    monkeypatch.setattr(options.Stream, "options", {"a": Option(str, "", check=_broken)})
    with pytest.raises(ConfigError, match=r"handler\.a cannot be checked: TypeError"):
        configured("Stream", a="bcd")
