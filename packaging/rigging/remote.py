"""``nsenter``'s counterpart for a virtual machine: remote.py ENVIRONMENT ARGV… runs ARGV there.

A process of its own, in the network of the machine, so that a command on a virtual machine is
a command on this host: it has this one's standard streams and exit status, and a terminal where
standard input is one. SIGTERM kills what runs there and returns when that is gone.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import sys
import termios
import threading
import tty
from collections.abc import Iterator
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

# As a program: importing the package would take longer than most commands.
if TYPE_CHECKING:
    from rigging.agent import DEVICE_ADDRESS, EXIT, PORT, STDERR, STDIN, STDOUT, Frames
else:
    from agent import DEVICE_ADDRESS, EXIT, PORT, STDERR, STDIN, STDOUT, Frames

# The machine may be busy, but its kernel answers.
_TIMEOUT = 30.0


class _Terminated(Exception):
    """SIGTERM has come."""


def main() -> int:
    """Run the command there and return its exit status."""
    environment, argv = json.loads(sys.argv[1]), sys.argv[2:]
    terminal = None
    if os.isatty(0):
        size = shutil.get_terminal_size()
        terminal = [size.lines, size.columns]
    connection = socket.create_connection((DEVICE_ADDRESS, PORT), _TIMEOUT)
    connection.settimeout(None)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    _end_with_machine(connection)
    request = {"run": argv, "environment": environment, "terminal": terminal}
    connection.sendall(json.dumps(request).encode() + b"\n")
    frames = Frames(connection)
    signal.signal(signal.SIGTERM, _terminate)
    try:
        with _raw_terminal() if terminal else contextlib.nullcontext():
            threading.Thread(target=_send_input, args=(frames,), daemon=True).start()
            return _carry(frames)
    except (_Terminated, BrokenPipeError):
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_WR)
        return _await_exit(frames)


def _end_with_machine(connection: socket.socket) -> None:
    """Let the connection fail when the machine has died, as in a panic, and says nothing more."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(_TIMEOUT * 1000))


def _carry(frames: Frames) -> int:
    """Write what comes where it belongs, until the exit status comes."""
    while True:
        for kind, data in frames.receive():
            if kind == EXIT:
                return _status(data)
            _write({STDOUT: 1, STDERR: 2}[kind], data)


def _await_exit(frames: Frames) -> int:
    while True:
        for kind, data in frames.receive():
            if kind == EXIT:
                return _status(data)


def _status(data: bytes) -> int:
    """An exit status as a shell has it."""
    status = int(data)
    return status if status >= 0 else 128 - status


def _send_input(frames: Frames) -> None:
    # The main thread sees what is wrong with the connection.
    with contextlib.suppress(OSError):
        while data := os.read(0, 65536):
            frames.send(STDIN, data)
        frames.send(STDIN, b"")


def _write(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


@contextlib.contextmanager
def _raw_terminal() -> Iterator[None]:
    before = termios.tcgetattr(0)
    tty.setraw(0)
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)


def _terminate(signum: int, frame: FrameType | None) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise _Terminated


if __name__ == "__main__":
    try:
        status = main()
    except (EOFError, OSError) as error:
        print(f"rig: the machine does not answer: {error!r}", file=sys.stderr)
        status = 255
    # Not through the interpreter's end: a thread may still read from standard input.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
