"""What a handler logs with the standard `logging` is in graced's log, and breaks nothing."""

from __future__ import annotations

import logging
import os
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from graced.log import bridge, events
from graced.log.events import INFO
from graced.log.writer import Log, message
from support import Graced, environment


class Listing:
    """A sink that keeps what is written."""

    def __init__(self) -> None:
        self.records: list[events.Record] = []

    def write(self, record: events.Record) -> None:
        self.records.append(record)

    def flush(self, timeout: float) -> None: ...

    @property
    def texts(self) -> list[str]:
        return [message(record) for record in self.records]


@pytest.fixture
def sink() -> Iterator[Listing]:
    """Where `logging` ends up meanwhile."""
    names = ["logThreads", "logProcesses", "logMultiprocessing", "_srcfile", "raiseExceptions"]
    before = {name: getattr(logging, name) for name in names}
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    sink = Listing()
    bridge.install(Log(sink, INFO))
    yield sink
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, value in before.items():
        setattr(logging, name, value)


def test_a_record_keeps_what_is_known_of_it(sink: Listing) -> None:
    logging.getLogger("mine").handle(theirs := made("%d of %d", 1, 2))
    (record,) = sink.records
    assert str(record) == "1 of 2"
    assert record.logger == "mine"
    assert record.created == theirs.created
    assert record.event.message_id == events.OTHER_MESSAGE_ID
    assert record.event.level.name == "WARNING"
    assert record.event.level.priority == 4
    assert record.fields == {}


def made(text: object, *args: object) -> logging.LogRecord:
    return logging.LogRecord("mine", logging.WARNING, "file", 1, text, args, None)


def test_the_level_holds(sink: Listing) -> None:
    logging.getLogger("mine").debug("quiet")
    logging.info("loud")
    assert sink.texts == ["loud"]


def test_levels_of_their_own(sink: Listing, monkeypatch: pytest.MonkeyPatch) -> None:
    """They have their names; for priorities there are those of graced's own levels."""
    monkeypatch.setattr(logging, "_levelToName", {**logging._levelToName, 25: "NOTICE"})
    logging.log(25, "named")
    logging.log(35, "not named")
    assert [record.event.level.name for record in sink.records] == ["NOTICE", "Level 35"]
    assert [record.event.level.priority for record in sink.records] == [6, 6]


def test_a_percent_sign_is_nothing_special(sink: Listing) -> None:
    logging.info("100 %d")
    assert sink.texts == ["100 %d"]


def test_the_text_is_that_of_the_moment(sink: Listing) -> None:
    state = ["before"]
    logging.info("%s", state)
    state.append("after")
    assert sink.texts == ["['before']"]


def test_an_exception_has_its_traceback(sink: Listing) -> None:
    try:
        int("a mistake")
    except ValueError:
        logging.exception("failed")
        shown = logging.Formatter().formatException(sys.exc_info())
    logging.error("no exception", exc_info=True)
    (failed, other) = sink.records
    assert str(failed) == f"failed\n{shown}"
    assert str(other) == "no exception"


def test_a_traceback_that_is_text_already(sink: Listing) -> None:
    record = made("failed")
    record.exc_text = "from another process"
    logging.getLogger("mine").handle(record)
    assert sink.texts == ["failed\nfrom another process"]


class Unspeakable:
    def __str__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize("record", [made("%d", "no number"), made(Unspeakable())])
def test_what_cannot_be_formatted_is_said(record: logging.LogRecord, sink: Listing) -> None:
    logging.getLogger("mine").handle(record)
    assert sink.texts == ["a record of the logger 'mine' cannot be formatted"]


# In the daemon.


def test_what_a_handler_logs_when_it_is_imported(tmp_path: Path) -> None:
    code = """
    import logging, socketserver
    logging.getLogger(__name__).warning("imported")
    class Handler(socketserver.BaseRequestHandler):
        def handle(self):
            self.request.recv(1024)
            logging.info("called")
            logging.debug("not logged")
    """
    (tmp_path / "early.py").write_text(textwrap.dedent(code))
    path = os.pathsep.join([environment()["PYTHONPATH"], str(tmp_path)])
    with Graced("--handler", "early:Handler", env={"PYTHONPATH": path}) as graced:
        with graced.connect() as client:
            client.send(b"hello")
            client.recv_to_end()
        assert graced.stop() == 0
        assert graced.log.lines[0] == "<4>imported"
        assert graced.log.count("^<6>called$") == 1
        assert graced.log.count("not logged") == 0
