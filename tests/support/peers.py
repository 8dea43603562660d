"""Servers with one client, for tests of a client: scripts, and sockets."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from graced.ctl.matcher import FAREWELL
from graced.sockets.address import Address


def echo(sock: socket.socket) -> None:
    while data := sock.recv(4096):
        sock.sendall(data)


def echo_and_farewell(sock: socket.socket) -> None:
    sock.sendall(sock.recv(56, socket.MSG_WAITALL) + FAREWELL)
    assert sock.recv(1) == b"", "the client hangs up and says no more"


def echo_and_hang_up(sock: socket.socket) -> None:
    sock.sendall(sock.recv(56, socket.MSG_WAITALL))


def twist(sock: socket.socket) -> None:
    sock.sendall(sock.recv(56, socket.MSG_WAITALL).replace(b".", b","))


def mute(sock: socket.socket) -> None:
    while sock.recv(4096):
        pass


@contextlib.contextmanager
def serving(script: Callable[[socket.socket], None], listener: socket.socket) -> Iterator[str]:
    """The address of a server that runs `script` with one client; raises what the script raises."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            with listener.accept()[0] as client:
                script(client)
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    with listener:
        name = listener.getsockname()
        thread.start()
        try:
            yield f"unix:{name}" if isinstance(name, str) else str(Address(*name[:2]))
        finally:
            # Only after a failed test nobody has come yet.
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            thread.join()
    for error in raised:
        raise error


def tcp(host: str = "127.0.0.1") -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, 0), family=family)


def unix(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    return listener
