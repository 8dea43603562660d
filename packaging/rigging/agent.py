#!/usr/bin/python3
"""The rig's hand on a virtual machine: runs commands and connects to sockets there for the rig.

It lives in the machine's /run (kernel.py puts it there) and needs nothing but Python's standard
library. Each connection asks for one thing with one line of JSON:

``{"run": ARGV, "environment": {…}, "terminal": null}``: runs a command; ``terminal`` may be
    ``[LINES, COLUMNS]``. Then both sides send frames, see ``Frames``. When the rig closes its side,
    the command and its process group are killed.
``{"connect": PATH}`` or ``{"connect": [HOST, PORT]}``: connects; the answer is one line with an
    errno, 0 for success, and then the connection carries the bytes of the socket, both ways, with
    a half-close and a reset passed on.
"""

import contextlib
import errno
import fcntl
import json
import os
import pty
import select
import signal
import socket
import struct
import subprocess
import termios
from collections.abc import Iterator
from pathlib import Path

RIG_ADDRESS = "192.0.2.1"
DEVICE_ADDRESS = "192.0.2.2"
# Of the agent, and on the other end of the rig, which is told there that the agent is up.
PORT = 1023
# Each connection that it relays takes two in a process of its own.
DESCRIPTORS = 4096

STDIN = b"i"
STDOUT = b"o"
STDERR = b"e"
EXIT = b"x"

_HEAD = struct.Struct("!cI")
_CHUNK = 65536


class Frames:
    """A kind and some bytes at a time, over a stream socket. No bytes of STDIN: its end."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._buffer = b""

    def send(self, kind: bytes, data: bytes) -> None:
        """Send a frame; raises OSError."""
        self.connection.sendall(_HEAD.pack(kind, len(data)) + data)

    def receive(self) -> Iterator[tuple[bytes, bytes]]:
        """The frames that one read completes. Raises EOFError at the end of the stream."""
        data = self.connection.recv(_CHUNK)
        if not data:
            raise EOFError
        self._buffer += data
        while len(self._buffer) >= _HEAD.size:
            kind, length = _HEAD.unpack_from(self._buffer)
            end = _HEAD.size + length
            if len(self._buffer) < end:
                return
            frame, self._buffer = self._buffer[_HEAD.size : end], self._buffer[end:]
            yield kind, frame


def read_line(connection: socket.socket) -> bytes:
    """One line without its end, and no byte of what follows. Raises EOFError."""
    line = b""
    while not line.endswith(b"\n"):
        byte = connection.recv(1)
        if not byte:
            raise EOFError
        line += byte
    return line[:-1]


class _Command:
    """A command with pipes, or with a terminal, and the frames of the rig that started it."""

    def __init__(self, frames: Frames, request: dict[str, object]) -> None:
        self._frames = frames
        self._poll = select.poll()
        self._streams: dict[int, bytes] = {}
        self._input = b""
        self._input_ended = False
        argv, environment = request["run"], request["environment"]
        assert isinstance(argv, list)
        assert isinstance(environment, dict)
        if request.get("terminal"):
            self._process = self._start_on_terminal(argv, environment, request["terminal"])
        else:
            self._process = self._start_on_pipes(argv, environment)
        os.set_blocking(self._stdin, False)
        self._ended = os.pidfd_open(self._process.pid)

    def _start_on_pipes(
        self, argv: list[str], environment: dict[str, str]
    ) -> "subprocess.Popen[bytes]":
        process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            cwd="/",
            start_new_session=True,
        )
        assert process.stdin
        assert process.stdout
        assert process.stderr
        self._stdin = os.dup(process.stdin.fileno())
        process.stdin.close()
        self._streams = {process.stdout.fileno(): STDOUT, process.stderr.fileno(): STDERR}
        return process

    def _start_on_terminal(
        self, argv: list[str], environment: dict[str, str], size: object
    ) -> "subprocess.Popen[bytes]":
        assert isinstance(size, list)
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
        process = subprocess.Popen(
            ["setsid", "--ctty", *argv],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=environment,
            cwd="/root",
        )
        os.close(theirs)
        self._stdin = os.dup(ours)
        self._streams = {ours: STDOUT}
        return process

    def serve(self) -> None:
        """Carry everything until the command and whatever has its output open have ended."""
        connection = self._frames.connection.fileno()
        for fd in (connection, self._ended, *self._streams):
            self._poll.register(fd, select.POLLIN)
        try:
            while self._streams or self._process.returncode is None:
                for fd, _ in self._poll.poll():
                    if fd == connection:
                        self._take_frames()
                    elif fd == self._stdin:
                        self._feed()
                    elif fd == self._ended:
                        self._poll.unregister(fd)
                        self._process.wait()
                    elif fd in self._streams:
                        self._pass_output(fd)
        except (EOFError, OSError):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        # Also to a rig that has closed its side: it waits to hear that the command is gone.
        with contextlib.suppress(OSError):
            self._frames.send(EXIT, str(self._process.returncode).encode())

    def _take_frames(self) -> None:
        for kind, data in self._frames.receive():
            if kind == STDIN and self._stdin >= 0:
                self._input_ended = not data
                self._input += data
                self._poll.register(self._stdin, select.POLLOUT)

    def _feed(self) -> None:
        """Write what the command's standard input takes without blocking."""
        try:
            self._input = self._input[os.write(self._stdin, self._input) :]
        except BrokenPipeError:
            self._input, self._input_ended = b"", True
        if not self._input:
            self._poll.unregister(self._stdin)
            if self._input_ended:
                os.close(self._stdin)
                self._stdin = -1

    def _pass_output(self, fd: int) -> None:
        try:
            data = os.read(fd, _CHUNK)
        except OSError as error:
            # A terminal whose last user has gone.
            if error.errno != errno.EIO:
                raise
            data = b""
        if data:
            self._frames.send(self._streams[fd], data)
        else:
            self._poll.unregister(fd)
            del self._streams[fd]


def relay(connection: socket.socket, address: object) -> None:
    """Connect, say whether that worked, then carry bytes both ways until both have ended."""
    try:
        if isinstance(address, str):
            target = socket.socket(socket.AF_UNIX)
            target.connect(address)
        else:
            assert isinstance(address, list)
            target = socket.create_connection((address[0], address[1]))
    except OSError as error:
        connection.sendall(b"%d\n" % (error.errno or errno.EIO))
        return
    connection.sendall(b"0\n")
    others = {connection: target, target: connection}
    with contextlib.suppress(BrokenPipeError):
        while others:
            ready, _, _ = select.select(list(others), [], [])
            for source in ready:
                try:
                    data = source.recv(_CHUNK)
                except ConnectionResetError:
                    _reset(others[source])
                    return
                if data:
                    others[source].sendall(data)
                else:
                    others.pop(source).shutdown(socket.SHUT_WR)


def _reset(connection: socket.socket) -> None:
    """Close a TCP connection so that the peer sees a reset."""
    if connection.family != socket.AF_UNIX:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def serve(connection: socket.socket) -> None:
    """Do what the one line of a connection asks for."""
    request = json.loads(read_line(connection))
    if "connect" in request:
        relay(connection, request["connect"])
        return
    try:
        command = _Command(Frames(connection), request)
    except OSError as error:
        frames = Frames(connection)
        frames.send(STDERR, f"{request['run'][0]}: {error.strerror}\n".encode())
        frames.send(EXIT, b"127")
    else:
        command.serve()
    _await_end(connection)


def _await_end(connection: socket.socket) -> None:
    """Read until the rig has closed: unread input is a reset, which destroys the last frame."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(_CHUNK):
            continue


def main() -> None:
    """Serve each connection in a process of its own, for ever."""
    listener = socket.create_server((DEVICE_ADDRESS, PORT), backlog=128)
    socket.create_connection((RIG_ADDRESS, PORT)).close()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            # The agent itself is spared by the kernel's OOM killer, what it starts is not.
            Path("/proc/self/oom_score_adj").write_text("0")
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                with contextlib.suppress(EOFError, ConnectionError):
                    serve(connection)
            finally:
                os._exit(0)
        connection.close()


if __name__ == "__main__":
    main()
