"""The handler of `logging.config.listen`, which takes one configuration and never answers."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from signal import SIGTERM

import pytest

from strangers.conversation import AT_ONCE
from strangers.service import GRACE, KINDS, SHORT_GRACE, server
from support import MACHINE, MOMENT, Graced


def settings(text: str) -> bytes:
    """A configuration that prints a text when it is applied."""
    printing = {"()": "builtins.print", "end": f"{text}\n", "flush": True}
    formatters = {"version": 1, "incremental": False, "formatters": {"printing": printing}}
    data = json.dumps({**formatters, "disable_existing_loggers": False}).encode()
    return struct.pack(">L", len(data)) + data


def apply_first(graced: Graced) -> None:
    """The server serves, and hears signals, when this configuration is applied."""
    with graced.connect() as client:
        client.send(settings("the first"))
        graced.log.wait_for("the first")
        assert client.recv_to_end() == b""


@pytest.mark.parametrize("kind", KINDS)
def test_configuration_under_way_is_applied(kind: str, tmp_path: Path) -> None:
    with server("settings", kind, tmp_path, GRACE) as graced:
        late = settings("applied late")
        apply_first(graced)
        with graced.connect() as silent, graced.connect() as client:
            client.send(late[:50])
            graced.signal(SIGTERM)
            silent.sock.settimeout(AT_ONCE)
            silent.expect_end()
            silent.close()
            client.send(late[50:])
            assert client.recv_to_end() == b""
        assert graced.wait(AT_ONCE) == 0
        graced.log.wait_for("applied late")
        assert graced.stopped.closed == 0


@pytest.mark.parametrize("kind", KINDS)
def test_half_a_configuration_is_not_applied(kind: str, tmp_path: Path) -> None:
    with server("settings", kind, tmp_path, SHORT_GRACE) as graced:
        apply_first(graced)
        with graced.connect() as client:
            client.send(settings("applied")[:-1])
            graced.signal(SIGTERM)
            assert client.recv_to_end() == b""
        assert graced.wait(SHORT_GRACE + MOMENT + MACHINE) == 0
        assert not graced.log.count("applied")
        assert graced.stopped.seconds < SHORT_GRACE + MOMENT + MACHINE
