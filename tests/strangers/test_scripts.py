"""A script of `http.server.CGIHTTPRequestHandler`: the server speaks before the script has read."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from signal import SIGTERM

import pytest

from strangers import apps
from strangers.conversation import AT_ONCE
from strangers.service import GRACE, KINDS, server
from support import PATIENCE

HEAD = b"POST /cgi-bin/script/upload HTTP/1.0\r\nContent-Length: 10\r\n\r\n"


@pytest.mark.parametrize("kind", KINDS)
def test_upload_to_a_script_is_waited_for(kind: str, tmp_path: Path) -> None:
    """The head of the answer has come, and the client is in the middle of its request."""
    with server("cgi", kind, tmp_path, GRACE) as graced:
        with graced.connect() as client:
            client.send(HEAD + b"12345")
            heard = b""
            while not heard.endswith(b"\r\n"):
                heard += client.recv()
            assert heard.startswith(b"HTTP/1.0 200 Script output follows")
            graced.signal(SIGTERM)
            graced.log.wait_for("SIGTERM received")
            client.sock.settimeout(0.5)
            with suppress(TimeoutError):
                raise AssertionError(client.recv())
            client.sock.settimeout(PATIENCE)
            client.send(b"67890")
            assert client.recv_to_end().endswith(apps.checksum(b"1234567890").encode())
        assert graced.wait(AT_ONCE) == 0
