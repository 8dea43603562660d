"""The log: no thread waits for a sink, and each lost record is counted."""

from __future__ import annotations

import re
import threading

import pytest

from graced.log import event, events, sinks, writer
from graced.log.event import ERROR, INFO, OTHER_MESSAGE_ID, Event, Record
from graced.log.writer import Log, TokenBucket
from support import PATIENCE

CLIENT = "127.0.0.1:50000"


def record(text: str) -> Record:
    """A record of a handler."""
    return Record(Event(OTHER_MESSAGE_ID, INFO, text), {}, logger="any")


@pytest.fixture
def own_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """Restore the destination of events after the test."""
    monkeypatch.setattr(event, "destination", None)


class Gate:
    """A sink that blocks until `open` is set, and remembers the texts."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.waiting = threading.Event()
        self.texts: list[str] = []
        self.fails = False
        self.flushed = False

    def write(self, record: Record) -> None:
        self.waiting.set()
        assert self.open.wait(PATIENCE)
        if self.fails:
            raise OSError("no space left")
        self.texts.append(sinks.message(record))

    def flush(self, timeout: float) -> None:
        self.flushed = True


@pytest.fixture
def gate(own_log: None) -> Gate:
    return Gate()


def test_traceback_is_part_of_message(gate: Gate) -> None:
    gate.open.set()
    writer.open_log("info", gate)
    with pytest.raises(ValueError, match="as expected") as caught:
        raise ValueError("as expected")
    events.HANDLER_FAILED(client=CLIENT, reason="ValueError", exc_info=caught.value)
    (text,) = gate.texts
    assert "\nTraceback (most recent call last):\n" in text
    assert text.endswith("\nValueError: as expected")


def test_record_is_written_at_once_before_start(gate: Gate) -> None:
    gate.open.set()
    log = writer.open_log("info", gate)
    events.CONNECTED(client=CLIENT)
    assert gate.texts == [f"connection from {CLIENT}"]
    log.stop()


def test_queue_keeps_order_while_sink_blocks(gate: Gate) -> None:
    log = writer.open_log("info", gate)
    log.start()
    for number in range(100):
        log.put(record(str(number)))
    gate.open.set()
    log.stop()
    assert gate.texts == [str(number) for number in range(100)]
    assert gate.flushed


def test_full_queue_drops_and_counts(gate: Gate) -> None:
    log = Log(gate, INFO, capacity=10)
    log.start()
    log.put(record("first"))
    assert gate.waiting.wait(PATIENCE)
    for number in range(15):
        log.put(record(str(number)))
    gate.open.set()
    log.stop()
    assert gate.texts[:11] == ["first", *map(str, range(10))]
    assert gate.texts[11:] == ["dropped 5 log records because the log could not keep up"]


def test_flood_of_records_does_not_push_out_errors(gate: Gate) -> None:
    log = Log(gate, INFO, capacity=10)
    log.start()
    log.put(record("first"))
    assert gate.waiting.wait(PATIENCE)
    for number in range(15):
        log.put(record(str(number)))
    for number in range(5):
        log.put(Record(Event(OTHER_MESSAGE_ID, ERROR, f"error {number}"), {}))
    gate.open.set()
    log.stop()
    assert gate.texts[:11] == ["first", *map(str, range(10))]
    assert gate.texts[11:16] == [f"error {number}" for number in range(5)]


def test_flood_of_connections_does_not_suppress_errors(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One client comes and goes as fast as it can, the handler of another fails."""
    gate.open.set()
    log = writer.open_log("info", gate)
    monkeypatch.setattr(log, "_client_records", TokenBucket(burst=5, rate=0))
    monkeypatch.setattr(log, "_client_errors", TokenBucket(burst=5, rate=0))
    log.start()
    for _ in range(100):
        events.CONNECTED(client=CLIENT)
    for number in range(6):
        events.HANDLER_FAILED(client="192.0.2.7:1", reason=number)
    log.stop()
    failed = [text for text in gate.texts if text.startswith("the handler of 192.0.2.7:1 failed")]
    assert len(failed) == 5, "and errors have a limit of their own"


def test_sink_that_raises_does_not_end_the_log(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    gate.open.set()
    log = writer.open_log("info", gate)
    log.start()

    def broken(_record: Record) -> None:
        monkeypatch.undo()
        raise MemoryError

    monkeypatch.setattr(gate, "write", broken)
    log.put(record("lost"))
    log.put(record("found"))
    log.stop()
    assert gate.texts == ["found", "dropped 1 log record because the log could not keep up"]


def test_failed_writes_are_counted_after_recovery(gate: Gate) -> None:
    gate.open.set()
    gate.fails = True
    log = writer.open_log("info", gate)
    for _ in range(3):
        log.put(record("lost"))
    gate.fails = False
    log.start()
    log.put(record("found"))
    log.stop()
    assert gate.texts == [
        "found",
        "dropped 3 log records because the log could not keep up",
    ]


def test_flood_of_client_records_is_suppressed_and_counted(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate.open.set()
    log = writer.open_log("info", gate)
    monkeypatch.setattr(log, "_client_records", TokenBucket(burst=5, rate=0))
    log.start()
    for _ in range(8):
        events.CONNECTED(client=CLIENT)
    events.SIGNAL_AGAIN(signal="SIGTERM")
    log.stop()
    assert gate.texts.count(f"connection from {CLIENT}") == 5
    assert "SIGTERM received, already closing" in gate.texts
    counts = re.findall(r"^suppressed (\d+) log records? about", "\n".join(gate.texts), re.M)
    assert sum(map(int, counts)) == 3


def test_hanging_sink_does_not_delay_stop(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "LOG_STOP_TIMEOUT", 0.05)
    log = writer.open_log("info", gate)
    log.start()
    events.CONNECTED(client=CLIENT)
    assert gate.waiting.wait(PATIENCE)
    log.stop()
    assert not gate.texts
    gate.open.set()
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "log"]
    thread.join(PATIENCE)


def test_thread_that_a_busy_processor_keeps_from_writing_is_waited_for(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "LOG_STOP_TIMEOUT", 0.0)
    gate.open.set()
    log = writer.open_log("info", gate)
    busy = threading.Event()
    until_loss_report = log._until_loss_report

    def held_up() -> float | None:
        assert busy.wait(PATIENCE)
        return until_loss_report()

    looks: list[float | None] = []
    join = threading.Thread.join

    def look(thread: threading.Thread, timeout: float | None = None) -> None:
        looks.append(timeout)
        if len(looks) == 3:
            busy.set()
        join(thread, timeout)

    monkeypatch.setattr(log, "_until_loss_report", held_up)
    monkeypatch.setattr(threading.Thread, "join", look)
    log.start()
    events.CONNECTED(client=CLIENT)
    log.stop()
    assert gate.texts == [f"connection from {CLIENT}"]


def test_records_below_level_are_not_logged(gate: Gate) -> None:
    gate.open.set()
    log = writer.open_log("warning", gate)
    events.CONNECTED(client=CLIENT)
    events.HANDLERS_STUCK(handlers=1)
    log.stop()
    assert gate.texts == ["exiting without waiting longer for 1 handler"]
    assert not events.RECEIVED.enabled()


def test_token_bucket_fills_again(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("graced.log.writer.time.monotonic", lambda: now)
    bucket = TokenBucket(burst=3, rate=2)
    assert [bucket.take() for _ in range(5)] == [True] * 3 + [False] * 2
    now = 1.0
    assert [bucket.take() for _ in range(3)] == [True] * 2 + [False]
    now = 1000.0
    assert [bucket.take() for _ in range(4)] == [True] * 3 + [False]
