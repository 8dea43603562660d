"""The end of other people's code; functional/test_foreign_code.py has the rest."""

from __future__ import annotations

import atexit
import gc
import io
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from graced.app import last_steps
from graced.log import events


def no_hook() -> None:
    """A handler without the hook `shutdown`."""


def test_no_thread_for_the_last_steps_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(_thread: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", full)
    last_steps.run(no_hook, None)
    (record,) = caplog.records
    assert record.msg is events.LIMITS
    assert "hook shutdown and exit functions are not called" in record.getMessage()


class Odd(io.TextIOWrapper):
    """A file whose class is the handler's own."""

    fails = True

    def flush(self) -> None:
        if self.fails:
            raise KeyError("odd")


@pytest.fixture
def without_exit_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the tests are not called."""
    monkeypatch.setattr(atexit, "_run_exitfuncs", lambda: None)


@pytest.mark.usefixtures("without_exit_functions")
def test_file_that_cannot_be_flushed_is_said_and_costs_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    full = open("/dev/full", "w")  # noqa: SIM115
    good = (tmp_path / "good").open("w")
    odd = Odd(io.BytesIO())
    closed = (tmp_path / "closed").open("w")
    closed.close()
    monkeypatch.setattr(gc, "get_objects", lambda: [full, odd, closed, good])
    for file in (full, good):
        file.write("last words")
    last_steps.run(no_hook, None)
    assert (tmp_path / "good").read_text() == "last words"
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2
    assert said[0].endswith("'/dev/full' are lost: [Errno 28] No space left on device")
    assert "are lost: 'odd'" in said[1]
    assert {record.msg for record in caplog.records} == {events.LIMITS}
    odd.fails = False
    good.close()
    with suppress(OSError):
        full.close()


@pytest.mark.usefixtures("without_exit_functions")
def test_last_steps_that_do_not_end_are_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    over = threading.Event()
    monkeypatch.setattr(last_steps, "TIMEOUT", 0)
    last_steps.run(over.wait, None)
    over.set()
    for thread in threading.enumerate():
        if thread.name == "exit":
            thread.join()
    (record,) = caplog.records
    assert record.msg is events.LIMITS
    assert "have not ended in time" in record.getMessage()
