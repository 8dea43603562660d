"""The end of other people's code; functional/test_foreign_code.py has the rest."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from graced.app import last_steps
from graced.log import events


def test_no_thread_for_the_last_steps_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(_thread: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", full)
    server: Any = type("Server", (), {"deadline": None})()
    last_steps.run(server, None)  # type: ignore[arg-type]
    (record,) = caplog.records
    assert record.msg is events.LIMITS
    assert "hook shutdown and exit functions are not called" in record.getMessage()
