"""Events: the text, the level and the destination of a record."""

from __future__ import annotations

import logging
import subprocess
import sys
import traceback

import pytest

from graced.log import event, events
from graced.log.event import (
    DEBUG,
    LEVELS,
    WARNING,
    Event,
    Level,
    Record,
    summary_of,
)
from support import environment

CLIENT = "127.0.0.1:50000"
GROUP = BaseExceptionGroup("many", [ValueError(1), KeyboardInterrupt()])


class Remembering:
    """A log that keeps its records."""

    def __init__(self, level: Level) -> None:
        self.level = level
        self.records: list[Record] = []

    def put(self, record: Record) -> None:
        self.records.append(record)


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Remembering:
    log = Remembering(WARNING)
    monkeypatch.setattr(event, "destination", log)
    return log


def fail() -> None:
    try:
        int("first")
    except ValueError as error:
        raise ValueError("second") from error


def failure() -> ValueError:
    """An exception with a cause; both have a traceback."""
    with pytest.raises(ValueError, match="second") as caught:
        fail()
    return caught.value


def test_levels_have_names_and_numbers_of_logging() -> None:
    assert {level.name: level.number for level in LEVELS.values()} == {
        name: getattr(logging, name) for name in LEVELS
    }


def test_event_goes_to_log(log: Remembering, caplog: pytest.LogCaptureFixture) -> None:
    events.HANDLERS_STUCK(handlers=3)
    (record,) = log.records
    assert record.event is events.HANDLERS_STUCK
    assert record.fields == {"handlers": 3}
    assert str(record) == "exiting without waiting longer for 3 handlers"
    assert not record.traceback
    assert not caplog.records


@pytest.mark.parametrize(("number", "text"), [(0, "0 clients"), (1, "1 client"), (2, "2 clients")])
def test_number_and_noun_agree(
    number: int,
    text: str,
    log: Remembering,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log.level = DEBUG
    departed = Event("", WARNING, "%(clients:client)s after %(seconds)d s")
    departed(clients=number, seconds=1)
    (record,) = log.records
    assert str(record) == f"{text} after 1 s"
    assert record.fields == {"clients": number, "seconds": 1}
    monkeypatch.setattr(event, "destination", None)
    departed(clients=number, seconds=1)
    assert caplog.messages == [f"{text} after 1 s"]


def test_text_without_fields_is_not_formatted() -> None:
    assert str(Record(Event("", WARNING, "100 %"), {})) == "100 %"


def test_event_below_level_is_not_logged(log: Remembering) -> None:
    events.ACCEPT_RESUMED()
    assert not log.records
    assert not events.ACCEPT_RESUMED.enabled()
    assert events.HANDLERS_STUCK.enabled()
    log.level = DEBUG
    assert events.RECEIVED.enabled()


def test_exception_is_logged_as_text(log: Remembering) -> None:
    error = failure()
    events.HANDLER_FAILED(client=CLIENT, reason="second", exc_info=error)
    (record,) = log.records
    shown = logging.Formatter().formatException((type(error), error, error.__traceback__))
    assert record.traceback == shown
    assert shown.count("Traceback (most recent call last):") == 2
    assert str(record) == f"the handler of {CLIENT} failed: second\n{shown}"


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise SystemExit

    __repr__ = __str__


@pytest.mark.parametrize(
    ("error", "summary"),
    [
        (ValueError("a mistake"), "ValueError: a mistake"),
        (ValueError("two\nlines \n"), "ValueError: two\nlines"),
        (OSError(24, "Too many open files"), "OSError: [Errno 24] Too many open files"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (Unspeakable(), f"{__name__}.Unspeakable: <exception str() failed>"),
        (GROUP, "BaseExceptionGroup: many (2 sub-exceptions)"),
    ],
)
def test_summary_of_exception(error: BaseException, summary: str) -> None:
    assert summary_of(error) == summary
    assert traceback.format_exception_only(error)[-1].strip() == summary


def test_failure_is_logged_without_traceback_module(
    log: Remembering, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "traceback", None)
    events.HANDLER_FAILED(client=CLIENT, reason="second", exc_info=failure())
    (record,) = log.records
    assert str(record) == f"the handler of {CLIENT} failed: second"


# Without a log: graced as a library.


def test_events_go_to_logging_without_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "graced")
    events.HANDLER_FAILED(client=CLIENT, reason="second", exc_info=failure())
    events.ACCEPT_RESUMED()
    events.RECEIVED(client=CLIENT, data="below the level")
    failed, resumed = caplog.records
    assert failed.name == "graced"
    assert failed.levelno == logging.ERROR
    assert failed.getMessage() == f"the handler of {CLIENT} failed: second"
    assert failed.exc_info
    assert failed.exc_info[0] is ValueError
    assert resumed.getMessage() == "accepting clients again"
    assert events.ACCEPT_RESUMED.enabled()
    assert not events.RECEIVED.enabled()


def test_program_imports_neither_logging_nor_typing() -> None:
    code = """if True:
        import sys
        before = set(sys.modules)
        import graced.__main__
        from graced.log import events, sinks, writer
        log = writer.open_log("debug", sinks.sink_for(detached=False))
        log.start()
        events.CONNECTED(client="somebody")
        log.stop()
        print(*{"logging", "traceback", "typing"} & (set(sys.modules) - before))
    """
    found = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True
    )
    assert found.stderr == "<6>connection from somebody\n"
    assert found.stdout == "\n"
