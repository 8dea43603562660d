"""The finder: a handler by its name."""

from __future__ import annotations

import importlib.metadata
import sys
from abc import ABCMeta
from asyncio import CancelledError
from collections.abc import Iterator
from types import ModuleType
from typing import Any, ClassVar

import pytest

from graced.errors import ConfigError, StartError
from graced.handlers import finder, registry
from graced.handlers.echo import EchoHandler
from graced.handlers.hooks import HOOKS, run_hook, run_startup
from graced.handlers.registry import Handler
from graced.handlers.stream import StreamProtocol
from support.handlers import ShoutingHandler, TutorialHandler

FAREWELL = b"configured"


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module of another package."""
    module: Any = ModuleType("a_plugin")
    monkeypatch.setitem(sys.modules, "a_plugin", module)
    return module


def test_echo_threaded() -> None:
    found = finder.find("echo-threaded", FAREWELL)
    assert found
    assert issubclass(found.factory, EchoHandler)
    assert (found.farewell, found.greets, found.movable) == (FAREWELL, False, True)


@pytest.mark.parametrize(
    ("attributes", "farewell", "greets"),
    [
        ({}, FAREWELL, None),
        ({"farewell": b"bytes"}, b"bytes", None),
        ({"farewell": "t\u00e4xt"}, "t\u00e4xt".encode(), None),
        ({"farewell": None}, None, None),
        ({"farewell": ""}, None, None),
        ({"greets": False}, FAREWELL, False),
        ({"greets": True}, FAREWELL, True),
    ],
)
def test_attributes_of_handler(
    plugin: Any, attributes: dict[str, Any], farewell: bytes, greets: bool | None
) -> None:
    plugin.Mine = type("Mine", (TutorialHandler,), attributes)
    assert finder.find("a_plugin:Mine", FAREWELL) == Handler(
        name=f"{__name__}:Mine",
        factory=plugin.Mine,
        streams=False,
        farewell=farewell,
        greets=greets,
        movable=False,
        holds_back=False,
        words=None,
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
    found = finder.find("a_plugin:Mine", FAREWELL)
    assert found
    assert found.movable == movable
    assert issubclass(found.factory, plugin.Mine)
    assert found.factory.__name__ == "Mine"


def test_stream_handler(plugin: Any) -> None:
    plugin.Mine = type("Mine", (StreamProtocol,), {"save": nothing, "restore": nothing})
    found = finder.find("a_plugin:Mine", FAREWELL, written=False)
    assert found == Handler(
        name=f"{__name__}:Mine",
        factory=plugin.Mine,
        streams=True,
        farewell=None,
        greets=None,
        movable=True,
        holds_back=True,
        words=None,
    )
    assert not registry.blocks(found)
    assert not registry.blocks(None)


def test_stream_handler_with_a_pause_of_its_own_is_not_held_back(plugin: Any) -> None:
    plugin.Mine = type("Mine", (StreamProtocol,), {"pause_writing": nothing})
    found = finder.find("a_plugin:Mine", FAREWELL)
    assert found
    assert not found.holds_back


@pytest.mark.parametrize(
    ("words", "expected"),
    [("Tsch\u00fc\u00df", b"Tsch\xc3\xbc\xc3\x9f"), (b"x", b"x"), (None, None)],
)
def test_words_of_a_stream_handler(plugin: Any, words: object, expected: bytes | None) -> None:
    plugin.Mine = type("Mine", (StreamProtocol,), {"farewell": lambda _self: words})
    found = finder.find("a_plugin:Mine", FAREWELL)
    assert found
    assert found.words
    assert found.words(plugin.Mine()) == expected
    assert found.farewell is None


async def coroutine(*_args: object) -> None:
    """Do nothing."""


def generator(*_args: object) -> Iterator[None]:
    yield


@pytest.mark.parametrize("callback", finder.CALLBACKS)
@pytest.mark.parametrize("function", [coroutine, generator])
def test_stream_handler_with_a_callback_that_would_not_run(
    plugin: Any, callback: str, function: object
) -> None:
    plugin.Mine = type("Mine", (StreamProtocol,), {callback: function})
    with pytest.raises(ConfigError, match=rf"has an? \w+ {callback}\(\), which nobody would run"):
        finder.find("a_plugin:Mine", FAREWELL)


MOVES = {"save": nothing, "restore": nothing}


@pytest.mark.parametrize("method", ["farewell", "save", "restore"])
@pytest.mark.parametrize("function", [coroutine, generator])
def test_blocking_handler_with_a_method_that_would_not_run(
    plugin: Any, method: str, function: object
) -> None:
    plugin.Mine = type("Mine", (TutorialHandler,), {**MOVES, method: function})
    with pytest.raises(ConfigError, match=rf"has an? \w+ {method}\(\), which nobody would run"):
        finder.find("a_plugin:Mine", FAREWELL)


@pytest.mark.parametrize("base", [TutorialHandler, StreamProtocol])
@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("function", [coroutine, generator])
def test_hook_that_would_not_run(plugin: Any, base: type, hook: str, function: Any) -> None:
    plugin.Mine = type("Mine", (base,), {hook: classmethod(function)})
    with pytest.raises(ConfigError, match=rf"has an? \w+ {hook}\(\), which nobody would run"):
        finder.find("a_plugin:Mine", FAREWELL)
    plugin.Mine = type("Mine", (base,), {hook: function})
    assert finder.find("a_plugin:Mine", FAREWELL), "no hook, but a method of each handler"


@pytest.mark.parametrize("methods", [MOVES, {"farewell": nothing}, {**MOVES, "farewell": nothing}])
def test_subclasses_of_graced_are_not_announced_to_the_handler(
    plugin: Any, methods: dict[str, Any]
) -> None:
    class Base(TutorialHandler):
        codes: ClassVar[list[int]] = []

        def __init_subclass__(cls, *, code: int) -> None:
            cls.codes.append(code)

    plugin.Mine = type("Mine", (Base,), methods, code=1)
    assert issubclass(finder.find("a_plugin:Mine", FAREWELL).factory, plugin.Mine)
    assert Base.codes == [1]


@pytest.mark.parametrize("methods", [MOVES, {"farewell": nothing}])
def test_class_that_can_have_no_subclass_is_one_line(plugin: Any, methods: dict[str, Any]) -> None:
    class Final(type):
        def __init__(cls, name: str, bases: tuple[type, ...], space: dict[str, Any]) -> None:
            if TutorialHandler not in bases:
                raise TypeError("is final")
            super().__init__(name, bases, space)

    plugin.Mine = Final("Mine", (TutorialHandler,), methods)
    with pytest.raises(ConfigError, match=r"has \w+\(\), .*, and that fails: TypeError: is final$"):
        finder.find("a_plugin:Mine", FAREWELL)


def test_stream_request_handler_can_save(plugin: Any) -> None:
    methods = {"save": nothing, "restore": nothing}
    plugin.Mine = type("Mine", (ShoutingHandler,), methods)
    found = finder.find("a_plugin:Mine", FAREWELL)
    assert found
    assert found.movable


def test_nested_class(plugin: Any) -> None:
    plugin.Outer = type("Outer", (), {"Inner": TutorialHandler})
    found = finder.find("a_plugin:Outer.Inner", FAREWELL)
    assert found
    assert found.factory is TutorialHandler


@pytest.mark.parametrize("farewell", [7, ["bye"], bytearray(b"bye")])
def test_farewell_of_wrong_type(plugin: Any, farewell: object) -> None:
    plugin.Mine = type("Mine", (EchoHandler,), {"farewell": farewell})
    with pytest.raises(ConfigError, match="farewell must be bytes, str or None"):
        finder.find("a_plugin:Mine", FAREWELL)


def test_farewell_that_is_no_utf8(plugin: Any) -> None:
    plugin.Mine = type("Mine", (EchoHandler,), {"farewell": "\udc80"})
    with pytest.raises(ConfigError, match=r"farewell must be bytes, str of UTF-8 or None, not "):
        finder.find("a_plugin:Mine", FAREWELL)


@pytest.mark.parametrize("thing", [7, "text", lambda: None, object, EchoHandler.handle])
def test_object_that_is_no_handler(plugin: Any, thing: object) -> None:
    plugin.Mine = thing
    reason = r"is neither a graced\.StreamProtocol nor a socketserver\.BaseRequestHandler class"
    with pytest.raises(ConfigError, match=reason):
        finder.find("a_plugin:Mine", FAREWELL)


@pytest.mark.parametrize("name", ["no_such_module:Mine", "a_plugin:Missing", "a_plugin:", ":Mine"])
def test_name_that_cannot_be_imported(plugin: Any, name: str) -> None:
    with pytest.raises(ConfigError, match=f"^handler '{name}' cannot be imported: "):
        finder.find(name, FAREWELL)


@pytest.mark.parametrize("kind", [LookupError, SystemExit, KeyboardInterrupt, CancelledError])
def test_import_error_is_one_short_line(
    monkeypatch: pytest.MonkeyPatch, kind: type[BaseException]
) -> None:
    def fail(_name: str) -> None:
        raise kind("many\nlines " * 100)

    monkeypatch.setattr(finder, "import_module", fail)
    with pytest.raises(ConfigError, match=f"{kind.__name__}: many lines many") as caught:
        finder.find("a_plugin:Mine", FAREWELL)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_name_of_entry_point(plugin: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin.Mine = type("Mine", (TutorialHandler,), {})
    points = importlib.metadata.EntryPoints(
        [importlib.metadata.EntryPoint("mine", "a_plugin:Mine", finder.GROUP)]
    )
    monkeypatch.setattr(
        importlib.metadata, "entry_points", lambda group: points.select(group=group)
    )
    found = finder.find("mine", FAREWELL)
    assert found
    assert found.factory is plugin.Mine
    with pytest.raises(ConfigError, match="known are echo, echo-threaded, mine"):
        finder.find("other", FAREWELL)


@pytest.mark.parametrize("meta", [type, ABCMeta])
def test_attributes_of_the_class_are_the_same_by_both_names(plugin: Any, meta: Any) -> None:
    """graced makes a subclass of a handler, and its class may count its clients."""

    class Counting(TutorialHandler, metaclass=meta):  # type: ignore[metaclass]
        total = 0
        farewell = nothing
        save = nothing
        restore = nothing

        @classmethod
        def count(cls) -> None:
            cls.total += 1

    plugin.Mine = Counting
    found = finder.find("a_plugin:Mine", FAREWELL)
    assert found.factory is not Counting
    found.factory.count()
    Counting.count()
    assert (found.factory.total, Counting.total) == (2, 2)
    del found.factory.total
    assert not hasattr(Counting, "total")
    assert found.factory.__name__ == "Counting"
    assert issubclass(found.factory, Counting)
    assert not issubclass(Counting, found.factory)


@pytest.mark.parametrize("kind", [LookupError, SystemExit, KeyboardInterrupt, CancelledError])
def test_method_farewell_that_fails_has_nothing_to_say(
    plugin: Any, kind: type[BaseException]
) -> None:
    def fail(_self: object) -> None:
        raise kind

    plugin.Mine = type("Mine", (TutorialHandler,), {"farewell": fail})
    made: Any = finder.find("a_plugin:Mine", FAREWELL).factory
    handler = made.__new__(made)
    handler.client_address = ("127.0.0.1", 9)
    assert handler._farewell_or_none() is None


@pytest.mark.parametrize("kind", [LookupError, SystemExit, KeyboardInterrupt, CancelledError])
def test_hook_that_fails_ends_no_thread(kind: type[BaseException]) -> None:
    class Mine(TutorialHandler):
        @classmethod
        def startup(cls, _server: object) -> None:
            raise kind("enough")

        shutdown = startup

    run_hook(Mine, "shutdown", None)
    with pytest.raises(StartError, match=f"has failed: .*{kind.__name__}: enough"):
        run_startup(Mine, None)
