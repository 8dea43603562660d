"""asyncio servers of other projects, unchanged, with clients of these projects or of Python."""

from __future__ import annotations

import smtplib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from signal import SIGTERM, SIGUSR2
from typing import Any

import pytest

from strangers.conversation import await_next_tick
from strangers.gate import Gate
from strangers.service import GRACE, SHORT_GRACE, server, start
from support import Client, FdStore, Graced

PACKAGES = {
    "asyncio_registers": "pymodbus",
    "asyncio_mail": "aiosmtpd",
    "asyncio_sockets": "websockets",
}
STRANGERS = [
    pytest.param(name, marks=pytest.mark.needs(f"module {package}"), id=package)
    for name, package in PACKAGES.items()
]
REQUEST = bytes.fromhex("000100000006 01 03 0001 0002")
"""Read two registers, from the first on."""
ANSWER = bytes.fromhex("000100000007 01 03 04 0001 0002")
SLOW_REQUEST = bytes.fromhex("000200000006 01 03 03e8 0002")
SLOW_ANSWER = bytes.fromhex("000200000007 01 03 04 0000 0001")
CLOSE_1001 = bytes.fromhex("880203e9")
"""A frame that says: the server is going away."""


def ask(name: str, graced: Graced) -> None:
    """The stranger's own client has a whole conversation."""
    host, _, number = graced.addresses[0].rpartition(":")
    port = int(number)
    if name == "asyncio_registers":
        from pymodbus.client import ModbusTcpClient

        with ModbusTcpClient(host, port=port) as client:
            assert client.read_holding_registers(1, count=3, device_id=1).registers == [1, 2, 3]
    elif name == "asyncio_mail":
        with smtplib.SMTP(host, port, timeout=10) as smtp:
            assert smtp.sendmail("from@example.com", "to@example.com", "Subject: x\n\nhi") == {}
    else:
        from websockets.sync.client import connect

        with connect(f"ws://{host}:{port}") as socket:
            socket.send("hello")
            assert [socket.recv(), socket.recv()] == ["hello one", "hello two"]


class Raw:
    """A client that says what the stranger's client says, in the parts that a test wants."""

    def __init__(self, name: str, graced: Graced) -> None:
        self.name = name
        self.client = Client.connect(graced.addresses[0])
        if name == "asyncio_mail":
            self._line(b"", b"220 ")
            self._line(b"EHLO me\r\n", b"250 HELP", b"250")
        elif name == "asyncio_sockets":
            self.client.send(
                b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
            )
            while not self._taken().endswith(b"\r\n\r\n"):
                pass

    def _taken(self) -> bytes:
        self.head = getattr(self, "head", b"") + self.client.recv_exactly(1)
        return self.head

    def _line(self, said: bytes, last: bytes, first: bytes = b"") -> None:
        self.client.send(said)
        line = b""
        while not line.startswith(last):
            line = b""
            while not line.endswith(b"\n"):
                line += self.client.recv_exactly(1)
            assert line.startswith(first)

    def request(self, *, slow: bool) -> tuple[bytes, bytes, bytes]:
        """What is said, and what is answered before and after the gate."""
        if self.name == "asyncio_registers":
            return (SLOW_REQUEST, b"", SLOW_ANSWER) if slow else (REQUEST, b"", ANSWER)
        if self.name == "asyncio_mail":
            self._line(b"MAIL FROM:<a@example.com>\r\n", b"250")
            self._line(b"RCPT TO:<b@example.com>\r\n", b"250")
            self._line(b"DATA\r\n", b"354")
            said = b"slow\r\n.\r\n" if slow else b"fast\r\n.\r\n"
            return said, b"", b"250 6 bytes for b@example.com\r\n"
        word = b"slow" if slow else b"fast"
        # A frame of the client, with a mask of zeros.
        frames = [bytes([0x81, 8]) + word + end for end in (b" one", b" two")]
        said = bytes([0x81, 0x84, 0, 0, 0, 0]) + word
        return said, frames[0] if slow else b"", frames[1] if slow else b"".join(frames)

    def expect_the_end(self) -> None:
        """The goodbye in the words of the protocol, and end of file."""
        words = CLOSE_1001 if self.name == "asyncio_sockets" else b""
        assert self.client.recv_exactly(len(words)) == words
        if words:
            # The client's answer, with a mask of zeros.
            self.client.send(bytes([0x88, 0x82, 0, 0, 0, 0]) + words[2:])
        assert self.client.recv_to_end() == b""
        self.client.close()


@contextmanager
def clients(name: str, graced: Graced, directory: Path) -> Iterator[dict[str, Any]]:
    """One client at rest, one in the middle of a request, one in the middle of an answer."""
    with ExitStack() as stack:
        found = {each: Raw(name, graced) for each in ("resting", "asking", "answered")}
        for each in found.values():
            stack.callback(each.client.close)
        gate = stack.enter_context(Gate(directory / "gate"))
        said, before, after = found["resting"].request(slow=False)
        found["resting"].client.send(said)
        assert found["resting"].client.recv_exactly(len(before + after)) == before + after
        await_next_tick()
        rest = found["asking"].request(slow=False)
        await_next_tick()
        found["asking"].client.send(rest[0][:3])
        said, before, after = found["answered"].request(slow=True)
        found["answered"].client.send(said)
        assert found["answered"].client.recv_exactly(len(before)) == before
        gate.await_servers(1)
        yield {**found, "gate": gate, "rest": rest, "after": after}


def finish(at: dict[str, Any]) -> None:
    """Each client hears the end at the right moment, after its whole answer."""
    at["resting"].expect_the_end()
    said, before, after = at["rest"]
    at["asking"].client.send(said[3:])
    assert at["asking"].client.recv_exactly(len(before + after)) == before + after
    at["asking"].expect_the_end()
    at["gate"].open()
    assert at["answered"].client.recv_exactly(len(at["after"])) == at["after"]
    at["answered"].expect_the_end()


@pytest.mark.parametrize("name", STRANGERS)
def test_own_client_is_served(name: str, tmp_path: Path) -> None:
    with server(name, "daemon", tmp_path, GRACE) as graced:
        ask(name, graced)
        assert graced.stop() == 0


@pytest.mark.parametrize("name", STRANGERS)
def test_stop(name: str, tmp_path: Path) -> None:
    with (
        server(name, "daemon", tmp_path, GRACE) as graced,
        clients(name, graced, tmp_path) as at,
    ):
        graced.signal(SIGTERM)
        finish(at)
        assert graced.wait() == 0
        assert graced.stopped[1:] == (3, 0)


@pytest.mark.parametrize("name", STRANGERS)
def test_deadline(name: str, tmp_path: Path) -> None:
    with (
        server(name, "daemon", tmp_path, SHORT_GRACE) as graced,
        clients(name, graced, tmp_path) as at,
    ):
        graced.signal(SIGTERM)
        assert at["answered"].client.recv_to_end() == b""
        assert graced.wait() == 0
        assert SHORT_GRACE <= graced.stopped.seconds < SHORT_GRACE + 0.5
        graced.tracebacks = True


@pytest.mark.parametrize("name", STRANGERS)
def test_restart(name: str, tmp_path: Path) -> None:
    """None of them saves its state: clients are told as at a stop, and new clients are served."""
    store = FdStore()
    with store:
        with start(name, store, tmp_path) as first, clients(name, first, tmp_path) as at:
            first.signal(SIGUSR2)
            finish(at)
            assert first.wait() == 79
        with start(name, store, tmp_path, listen=first.addresses[0]) as second:
            ask(name, second)
            assert second.stop() == 0
