"""The registry: a handler by its name."""

from __future__ import annotations

import importlib.metadata
import sys
from types import ModuleType
from typing import Any

import pytest

from graced.errors import ConfigError
from graced.handlers import registry
from graced.handlers.echo import EchoHandler
from graced.handlers.registry import Handler
from support.handlers import ShoutingHandler, TutorialHandler

FAREWELL = b"configured"


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module of another package."""
    module: Any = ModuleType("a_plugin")
    monkeypatch.setitem(sys.modules, "a_plugin", module)
    return module


def test_echo_is_no_blocking_handler() -> None:
    assert registry.find("echo", FAREWELL) is None


def test_echo_threaded() -> None:
    found = registry.find("echo-threaded", FAREWELL)
    assert found
    assert issubclass(found.factory, EchoHandler)
    assert (found.farewell, found.greets, found.movable) == (FAREWELL, False, True)


@pytest.mark.parametrize(
    ("attributes", "farewell", "greets"),
    [
        ({}, FAREWELL, False),
        ({"farewell": b"bytes"}, b"bytes", False),
        ({"farewell": "t\u00e4xt"}, "t\u00e4xt".encode(), False),
        ({"farewell": None}, None, False),
        ({"farewell": ""}, None, False),
        ({"greets": True}, FAREWELL, True),
    ],
)
def test_attributes_of_handler(
    plugin: Any, attributes: dict[str, Any], farewell: bytes, greets: bool
) -> None:
    plugin.Mine = type("Mine", (TutorialHandler,), attributes)
    assert registry.find("a_plugin:Mine", FAREWELL) == Handler(
        name=f"{__name__}:Mine",
        factory=plugin.Mine,
        farewell=farewell,
        greets=greets,
        movable=False,
    )


def nothing(*_args: object) -> bytes:
    return b""


@pytest.mark.parametrize(
    ("methods", "movable"),
    [
        ({}, False),
        ({"save": nothing}, False),
        ({"restore": nothing}, False),
        ({"save": nothing, "restore": None}, False),
        ({"save": nothing, "restore": nothing}, True),
    ],
    ids=["neither", "save", "restore", "no method", "both"],
)
def test_handler_with_save_and_restore_is_movable(
    plugin: Any, methods: dict[str, Any], movable: bool
) -> None:
    plugin.Mine = type("Mine", (TutorialHandler,), methods)
    found = registry.find("a_plugin:Mine", FAREWELL)
    assert found
    assert found.movable == movable
    assert issubclass(found.factory, plugin.Mine)
    assert found.factory.__name__ == "Mine"


def test_stream_request_handler_can_save(plugin: Any) -> None:
    methods = {"save": nothing, "restore": nothing}
    plugin.Mine = type("Mine", (ShoutingHandler,), methods)
    found = registry.find("a_plugin:Mine", FAREWELL)
    assert found
    assert found.movable


def test_nested_class(plugin: Any) -> None:
    plugin.Outer = type("Outer", (), {"Inner": TutorialHandler})
    found = registry.find("a_plugin:Outer.Inner", FAREWELL)
    assert found
    assert found.factory is TutorialHandler


@pytest.mark.parametrize("farewell", [7, ["bye"], bytearray(b"bye")])
def test_farewell_of_wrong_type(plugin: Any, farewell: object) -> None:
    plugin.Mine = type("Mine", (EchoHandler,), {"farewell": farewell})
    with pytest.raises(ConfigError, match="farewell must be bytes, str or None"):
        registry.find("a_plugin:Mine", FAREWELL)


@pytest.mark.parametrize("thing", [7, "text", lambda: None, object, EchoHandler.handle])
def test_object_that_is_no_handler(plugin: Any, thing: object) -> None:
    plugin.Mine = thing
    with pytest.raises(ConfigError, match=r"is not a socketserver\.BaseRequestHandler class"):
        registry.find("a_plugin:Mine", FAREWELL)


@pytest.mark.parametrize("name", ["no_such_module:Mine", "a_plugin:Missing", "a_plugin:", ":Mine"])
def test_name_that_cannot_be_imported(plugin: Any, name: str) -> None:
    with pytest.raises(ConfigError, match=f"^handler '{name}' cannot be imported: "):
        registry.find(name, FAREWELL)


def test_import_error_is_one_short_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(_name: str) -> None:
        raise LookupError("many\nlines " * 100)

    monkeypatch.setattr(registry, "import_module", fail)
    with pytest.raises(ConfigError, match="LookupError: many lines many") as caught:
        registry.find("a_plugin:Mine", FAREWELL)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_name_of_entry_point(plugin: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin.Mine = type("Mine", (TutorialHandler,), {})
    points = importlib.metadata.EntryPoints(
        [importlib.metadata.EntryPoint("mine", "a_plugin:Mine", registry.GROUP)]
    )
    monkeypatch.setattr(
        importlib.metadata, "entry_points", lambda group: points.select(group=group)
    )
    found = registry.find("mine", FAREWELL)
    assert found
    assert found.factory is plugin.Mine
    with pytest.raises(ConfigError, match="known are echo, echo-threaded, mine"):
        registry.find("other", FAREWELL)
