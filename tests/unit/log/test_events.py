"""Events: what each is, where it goes, and that nobody has to load `logging` for it."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
import traceback

import pytest

from graced.log import events
from graced.log.events import DEBUG, LEVELS, WARNING, Level, Record
from support import environment

CLIENT = "127.0.0.1:50000"
GROUP = BaseExceptionGroup("many", [ValueError(1), KeyboardInterrupt()])


class Remembering:
    """A log that keeps what it is given."""

    def __init__(self, level: Level) -> None:
        self.level = level
        self.records: list[Record] = []

    def put(self, record: Record) -> None:
        self.records.append(record)


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Remembering:
    log = Remembering(WARNING)
    monkeypatch.setattr(events, "destination", log)
    return log


def fail() -> None:
    try:
        int("first")
    except ValueError as error:
        raise ValueError("second") from error


def failure() -> ValueError:
    """An exception with a cause, and a traceback each."""
    with pytest.raises(ValueError, match="second") as caught:
        fail()
    return caught.value


def test_each_event_has_an_identity_of_its_own() -> None:
    every = [*(each.message_id for each in events.ALL.values()), events.OTHER_MESSAGE_ID]
    assert len(every) == len(set(every))
    for identity in every:
        assert re.fullmatch(r"[0-9a-f]{32}", identity)


def test_the_levels_are_those_of_logging() -> None:
    assert {level.name: level.number for level in LEVELS.values()} == {
        name: getattr(logging, name) for name in LEVELS
    }


def test_an_event_goes_to_the_log(log: Remembering, caplog: pytest.LogCaptureFixture) -> None:
    events.HANDLERS_STUCK(handlers=3)
    (record,) = log.records
    assert record.event is events.HANDLERS_STUCK
    assert record.fields == {"handlers": 3}
    assert str(record) == "exiting without waiting longer for 3 handlers"
    assert not record.traceback
    assert not caplog.records


@pytest.mark.parametrize(("number", "text"), [(0, "0 clients"), (1, "1 client"), (2, "2 clients")])
def test_a_number_and_its_noun_agree(
    number: int, text: str, log: Remembering, caplog: pytest.LogCaptureFixture
) -> None:
    log.level = DEBUG
    event = events.Event("", WARNING, "%(clients:client)s after %(seconds)d s")
    event(clients=number, seconds=1)
    (record,) = log.records
    assert str(record) == f"{text} after 1 s"
    assert record.fields == {"clients": number, "seconds": 1}
    events.destination = None
    event(clients=number, seconds=1)
    assert caplog.messages == [f"{text} after 1 s"]


def test_a_text_without_fields_is_taken_as_it_is() -> None:
    assert str(Record(events.Event("", WARNING, "100 %"), {})) == "100 %"


def test_what_is_below_the_level_of_the_log_is_not_logged(log: Remembering) -> None:
    events.ACCEPT_RESUMED()
    assert not log.records
    assert not events.ACCEPT_RESUMED.enabled()
    assert events.HANDLERS_STUCK.enabled()
    log.level = DEBUG
    assert events.RECEIVED.enabled()


def test_an_exception_is_kept_as_text(log: Remembering) -> None:
    error = failure()
    events.HANDLER_FAILED(client=CLIENT, reason="second", exc_info=error)
    (record,) = log.records
    # As `logging` would show it.
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
def test_an_exception_in_short(error: BaseException, summary: str) -> None:
    assert events.summary_of(error) == summary
    assert traceback.format_exception_only(error)[-1].strip() == summary


def test_a_failure_is_logged_also_when_its_traceback_cannot_be_had(
    log: Remembering, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "traceback", None)
    events.HANDLER_FAILED(client=CLIENT, reason="second", exc_info=failure())
    (record,) = log.records
    assert str(record) == f"the handler of {CLIENT} failed: second"


# Without a log: as a library.


def test_without_a_log_events_go_to_logging(caplog: pytest.LogCaptureFixture) -> None:
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


def test_the_daemon_starts_and_logs_without_logging() -> None:
    """It would be an eighth of the start."""
    code = """if True:
        import sys
        before = set(sys.modules)
        import graced.__main__
        from graced.log import events, writer
        log = writer.open_log("debug", writer.sink_for(detached=False))
        log.start()
        events.CONNECTED(client="somebody")
        log.stop()
        print(*{"logging", "traceback"} & (set(sys.modules) - before))
    """
    found = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True
    )
    assert found.stderr == "<6>connection from somebody\n"
    assert found.stdout == "\n"
