"""A client that says what it expects."""

from __future__ import annotations

import select
import socket
import struct
from types import TracebackType

from support.log import PATIENCE

FAREWELL = b"SHUTDOWN"
MOMENT = 0.2
"""Seconds without progress after which a stream has come to a stop, as far as one can know."""


class Client:
    """A connected stream socket, as a context manager."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.sock.settimeout(PATIENCE)

    @classmethod
    def connect(cls, address: str, *, receive_buffer: int = 0) -> Client:
        """To ``HOST:PORT``, ``[IPV6]:PORT`` or ``unix:/PATH``."""
        where: str | tuple[str, int]
        if address.startswith("unix:"):
            family, where = socket.AF_UNIX, address.removeprefix("unix:")
        else:
            host, _, port = address.rpartition(":")
            family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
            where = (host.strip("[]"), int(port))
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            if receive_buffer:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            sock.settimeout(PATIENCE)
            sock.connect(where)
        except BaseException:
            sock.close()
            raise
        return cls(sock)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _value: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def name(self) -> str:
        """As the log has it; of a Unix client the log's name cannot be known."""
        host, port = self.sock.getsockname()[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def send_until_full(self) -> int:
        """Send without reading until the server reads no more, and return how much that was.

        That it does not read for a moment has to do; what depends on it must not be wrong where
        it was only slow.
        """
        poll = select.poll()
        poll.register(self.sock, select.POLLOUT)
        sent = 0
        while poll.poll(MOMENT * 1000):
            try:
                sent += self.sock.send(b"x" * 65536, socket.MSG_DONTWAIT)
            except BlockingIOError:
                continue
        return sent

    def recv(self, longest: int = 65536) -> bytes:
        """One read, as a client that takes it for a message would do it."""
        return self.sock.recv(longest)

    def recv_exactly(self, number: int) -> bytes:
        data = bytearray()
        while len(data) < number:
            chunk = self.sock.recv(min(number - len(data), 1 << 20))
            assert chunk, f"end of stream after {len(data)} of {number} bytes: {data[-64:]!r}"
            data += chunk
        return bytes(data)

    def recv_to_end(self) -> bytes:
        """All until the server closes; `ConnectionResetError` where it does so rudely."""
        data = bytearray()
        while chunk := self.sock.recv(1 << 20):
            data += chunk
        return bytes(data)

    def echo(self, data: bytes) -> None:
        """A round trip."""
        self.send(data)
        received = self.recv_exactly(len(data))
        assert received == data, f"sent {data[:64]!r}, received {received[:64]!r}"

    def expect_farewell_alone(self, farewell: bytes = FAREWELL) -> None:
        """The next read returns the farewell and nothing else."""
        received = self.recv()
        assert received == farewell, f"received {received[:100]!r}"

    def expect_end(self) -> None:
        """The next read finds that the server has closed, politely and without a word."""
        received = self.recv()
        assert received == b"", f"received {received[:100]!r}"

    def finish(self) -> None:
        """Say no more, but go on listening."""
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Break the connection off: the server gets a RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def close(self) -> None:
        self.sock.close()
