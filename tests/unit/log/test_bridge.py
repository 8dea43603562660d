"""The bridge: records of `logging` reach the log of graced, and break nothing."""

from __future__ import annotations

import logging
import os
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from graced.log import bridge
from graced.log.event import INFO, OTHER_MESSAGE_ID, Record
from graced.log.sinks import message
from graced.log.writer import Log
from support import Graced, environment


class Listing:
    """A sink that keeps the records."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def write(self, record: Record) -> None:
        self.records.append(record)

    def flush(self, timeout: float) -> None: ...

    @property
    def texts(self) -> list[str]:
        return [message(record) for record in self.records]


@pytest.fixture
def sink() -> Iterator[Listing]:
    """The sink that `logging` is sent to for the test."""
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


def test_record_keeps_logger_time_and_level(sink: Listing) -> None:
    logging.getLogger("mine").handle(source := made("%d of %d", 1, 2))
    (record,) = sink.records
    assert str(record) == "1 of 2"
    assert record.logger == "mine"
    assert record.created == source.created
    assert record.event.message_id == OTHER_MESSAGE_ID
    assert record.event.level.name == "WARNING"
    assert record.event.level.priority == 4
    assert record.fields == {}


def made(text: object, *args: object) -> logging.LogRecord:
    return logging.LogRecord("mine", logging.WARNING, "file", 1, text, args, None)


def test_records_below_level_are_not_logged(sink: Listing) -> None:
    logging.getLogger("mine").debug("quiet")
    logging.info("loud")
    assert sink.texts == ["loud"]


def test_custom_levels_keep_names(sink: Listing, monkeypatch: pytest.MonkeyPatch) -> None:
    """A level between two levels has the priority of the lower one."""
    monkeypatch.setattr(logging, "_levelToName", {**logging._levelToName, 25: "NOTICE"})
    logging.log(25, "named")
    logging.log(35, "not named")
    assert [record.event.level.name for record in sink.records] == ["NOTICE", "Level 35"]
    assert [record.event.level.priority for record in sink.records] == [6, 4]
    logging.log(99, "above all")
    logging.getLogger().setLevel(1)
    logging.log(1, "below all")
    assert [record.event.level.priority for record in sink.records[2:]] == [2, 7]


def test_percent_sign_is_not_formatted(sink: Listing) -> None:
    logging.info("100 %d")
    assert sink.texts == ["100 %d"]


def test_text_is_formatted_at_once(sink: Listing) -> None:
    state = ["before"]
    logging.info("%s", state)
    state.append("after")
    assert sink.texts == ["['before']"]


def test_exception_has_traceback(sink: Listing) -> None:
    try:
        int("a mistake")
    except ValueError:
        logging.exception("failed")
        shown = logging.Formatter().formatException(sys.exc_info())
    logging.error("no exception", exc_info=True)
    (failed, other) = sink.records
    assert str(failed) == f"failed\n{shown}"
    assert str(other) == "no exception"


def test_formatted_traceback_is_kept(sink: Listing) -> None:
    record = made("failed")
    record.exc_text = "from another process"
    logging.getLogger("mine").handle(record)
    assert sink.texts == ["failed\nfrom another process"]


class Unspeakable:
    def __str__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize("record", [made("%d", "no number"), made(Unspeakable())])
def test_unformattable_record_is_reported(record: logging.LogRecord, sink: Listing) -> None:
    logging.getLogger("mine").handle(record)
    assert sink.texts == ["a record of the logger 'mine' cannot be formatted"]


# In the daemon.


def test_record_logged_during_import_of_handler(tmp_path: Path) -> None:
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
