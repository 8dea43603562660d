"""What the process before has left in the store."""

from __future__ import annotations

import os
import socket
from contextlib import ExitStack
from pathlib import Path

from graced.handover.fd_bundle import FdBundle
from graced.handover.fdstore import CLIENTS, LISTENERS, MIRRORED
from graced.loop.client import Client
from graced.loop.phase import GONE

FROZEN = 12.5
COUNTS = (70, 700, 7, 3)
KINDS = ["127.0.0.1", "::1", "unix"]


class LastProcess:
    """Puts listeners and clients into the store; has the clients' ends too."""

    def __init__(self, stack: ExitStack, directory: Path) -> None:
        self._stack = stack
        self._path = str(directory / "socket")
        self.passed: list[tuple[int, str]] = []

    def listener(self, sock: socket.socket) -> None:
        self.passed.append((os.dup(sock.fileno()), LISTENERS))

    def client(self, kind: str = "127.0.0.1") -> tuple[Client, socket.socket]:
        """A client of the process, and the client's own end."""
        if kind == "unix":
            server = socket.socket(socket.AF_UNIX)
            server.bind(self._path)
            server.listen()
        else:
            family = socket.AF_INET6 if ":" in kind else socket.AF_INET
            server = socket.create_server((kind, 0), family=family)
        with server:
            theirs = self._stack.enter_context(socket.socket(server.family))
            theirs.connect(server.getsockname())
            ours = self._stack.enter_context(server.accept()[0])
        host, port = ("unix:" + self._path, 0) if kind == "unix" else theirs.getsockname()[:2]
        return Client(ours, host, port, GONE, 1.0), theirs

    def bundle(self, name: str, *messages: list[int]) -> None:
        bundle = FdBundle()
        for descriptors in messages:
            assert bundle.put(descriptors)
        self.passed.append((os.dup(bundle.receiver.fileno()), name))
        bundle.close()

    def clients(self, clients: list[Client], state: bytes) -> None:
        """Hand clients over, as `FdStore.hand_over` does."""
        fd = os.memfd_create("state")
        os.write(fd, state)
        self.bundle(CLIENTS, [fd], [client.sock.fileno() for client in clients])
        os.close(fd)

    def mirrored(self, clients: list[Client]) -> None:
        """Mirror clients, as `Mirror` does."""
        self.bundle(MIRRORED, *([client.sock.fileno()] for client in clients))
