"""One protocol, spoken over the socket of a handler by every way that programs have.

Each line is answered in capitals; ``slow`` is answered in two parts, the second when the gate of
`strangers.gate` is open; ``long`` likewise, in two parts of `PART` bytes; ``late`` is answered when
the gate is open; ``stay`` is never answered, and ends when it is open; the end of the input gets a
last word.
"""

from __future__ import annotations

import asyncio
import io
import multiprocessing
import os
import select
import selectors
import socket
import socketserver
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO, ClassVar

from strangers import gate

Write = Callable[[bytes], Any]
Receive = Callable[[int], bytes]


PART = 1_000_000
"""Bytes."""
_BLOCK = 50_000


def part(number: int) -> bytes:
    """A part of the long answer."""
    return b"".join(b"%d %07d\n" % (number, line) for line in range(PART // 10))


def split(receive: Receive) -> Iterator[bytes]:
    """The lines of what is received."""
    rest = b""
    while data := receive(1024):
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            yield line + b"\n"


def talk(receive: Receive, write: Write) -> None:
    for line in split(receive):
        if line == b"slow\n":
            write(b"one, ")
            gate.wait()
            write(b"two\n")
        elif line == b"long\n":
            write_all(write, part(1))
            gate.wait()
            write_all(write, part(2))
        elif line == b"late\n":
            gate.wait()
            write(line.upper())
        elif line == b"stay\n":
            gate.wait()
        else:
            write(line.upper())
    with suppress(OSError):
        write(b"bye\n")


def write_all(write: Write, data: bytes) -> None:
    """Write in blocks, of which a call may take a part."""
    while data:
        block = data[:_BLOCK]
        taken = write(block)
        data = data[len(block) if taken is None else taken :]


class Plain(socketserver.BaseRequestHandler):
    """By the request itself."""

    def handle(self) -> None:
        talk(self.request.recv, self.request.sendall)


class KeptMethods(socketserver.BaseRequestHandler):
    """By a method that was looked up at the beginning, and one that is looked up each time."""

    def handle(self) -> None:
        talk(lambda size: bytes(self.request.recv(size)), self.request.sendall)


class KeptReads(socketserver.BaseRequestHandler):
    """The other way round."""

    def handle(self) -> None:
        def write(data: bytes) -> None:
            self.request.sendall(data)

        talk(self.request.recv, write)


class Buffered(socketserver.StreamRequestHandler):
    """By files of which both are buffered, flushed after each answer."""

    wbufsize = -1

    def handle(self) -> None:
        def write(data: bytes) -> None:
            self.wfile.write(data)
            self.wfile.flush()

        talk(self.rfile.readline, write)


class BufferReplaced(socketserver.StreamRequestHandler):
    """By files of its own."""

    def handle(self) -> None:
        raw = socket.SocketIO(self.request, "rw")
        self.rfile = io.BufferedReader(raw)
        talk(self.rfile.readline, raw.write)


class EmptyWrites(socketserver.StreamRequestHandler):
    """By a write before each read, of nothing."""

    def handle(self) -> None:
        def receive(_size: int) -> bytes:
            self.wfile.write(b"")
            return bytes(self.rfile.read1(1))

        talk(receive, self.wfile.write)


class Peeking(socketserver.BaseRequestHandler):
    """By a look at what is there before each read."""

    def handle(self) -> None:
        def receive(size: int) -> bytes:
            self.request.recv(1, socket.MSG_PEEK)
            return bytes(self.request.recv(size))

        talk(receive, self.request.sendall)


class Duplicated(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        with self.request.dup() as sock:
            talk(sock.recv, sock.sendall)


class FromFd(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        found = self.request
        with socket.fromfd(found.fileno(), found.family, found.type) as sock:
            talk(sock.recv, sock.sendall)


class Descriptor(socketserver.BaseRequestHandler):
    """By read(2) and write(2)."""

    def handle(self) -> None:
        fd = self.request.fileno()
        talk(lambda size: os.read(fd, size), lambda data: os.write(fd, data))


class FileOfDescriptor(socketserver.BaseRequestHandler):
    """By the files of a duplicate."""

    def handle(self) -> None:
        fd = os.dup(self.request.fileno())
        with open(fd, "rb") as rfile, open(fd, "wb", buffering=0, closefd=False) as wfile:
            talk(rfile.readline, wfile.write)


class Messages(socketserver.BaseRequestHandler):
    """By sendmsg and recvmsg, with ancillary data where there are any."""

    def handle(self) -> None:
        def write(data: bytes) -> int:
            ancillary: Any = []
            if self.request.family == socket.AF_UNIX:
                rights = (0).to_bytes(4, sys.byteorder)
                ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)]
            return int(self.request.sendmsg([data[:1], data[1:]], ancillary))

        talk(lambda size: bytes(self.request.recvmsg(size)[0]), write)


class Sendfile(socketserver.BaseRequestHandler):
    """By sendfile(2) on the descriptor."""

    def handle(self) -> None:
        talk(self.request.recv, lambda data: sendfile(self.request.fileno(), data))


def sendfile(fd: int, data: bytes) -> int:
    with in_file(data) as file:
        return os.sendfile(fd, file.fileno(), 0, len(data))


@contextmanager
def in_file(data: bytes) -> Iterator[BinaryIO]:
    with open(os.memfd_create("answer"), "w+b") as file:
        file.write(data)
        file.seek(0)
        yield file


class DuplicateSendfile(socketserver.BaseRequestHandler):
    """By sendfile(2) on a duplicate, by its method and by its descriptor."""

    def handle(self) -> None:
        with self.request.dup() as sock:

            def write(data: bytes) -> int:
                if len(data) % 2:
                    return sendfile(sock.fileno(), data)
                with in_file(data) as file:
                    return int(sock.sendfile(file))

            talk(self.request.recv, write)


class DuplicateFile(socketserver.BaseRequestHandler):
    """By a buffered file of a duplicate, read by the request."""

    def handle(self) -> None:
        with self.request.dup() as sock, sock.makefile("wb") as file:

            def write(data: bytes) -> None:
                file.write(data)
                file.flush()

            talk(self.request.recv, write)


class SocketOfDuplicate(socketserver.BaseRequestHandler):
    """By a socket of a duplicate of the descriptor, read by the request."""

    def handle(self) -> None:
        with socket.socket(fileno=os.dup(self.request.fileno())) as sock:
            talk(self.request.recv, sock.sendall)


class Splice(socketserver.BaseRequestHandler):
    """By splice(2) in both directions."""

    def handle(self) -> None:
        fd = self.request.fileno()
        output, input_ = os.pipe()

        def receive(size: int) -> bytes:
            return os.read(output, size) if os.splice(fd, input_, size) else b""

        def write(data: bytes) -> int:
            taken = left = os.write(input_, data)
            while left:
                left -= os.splice(output, fd, left)
            return taken

        with suppress(BrokenPipeError):
            talk(receive, write)
        os.close(output)
        os.close(input_)


class TwoThreads(socketserver.BaseRequestHandler):
    """One reads, the other writes."""

    def handle(self) -> None:
        thread = threading.Thread(target=talk, args=(self.request.recv, self.request.sendall))
        thread.start()
        thread.join()


class WriterThread(socketserver.BaseRequestHandler):
    """The handler reads; a thread writes each answer."""

    def handle(self) -> None:
        def write(data: bytes) -> None:
            thread = threading.Thread(target=self.request.sendall, args=(data,))
            thread.start()
            thread.join()

        talk(self.request.recv, write)


class Impatient(socketserver.StreamRequestHandler):
    """By a socket with a timeout, which is tried again and again."""

    timeout = 0.02

    def handle(self) -> None:
        def receive(size: int) -> bytes:
            while True:
                with suppress(TimeoutError):
                    return bytes(self.request.recv(size))

        def write(data: bytes) -> None:
            self.request.settimeout(60)
            self.request.sendall(data)
            self.request.settimeout(self.timeout)

        talk(receive, write)


class NonBlocking(socketserver.BaseRequestHandler):
    """By epoll(7), and a socket that does not block."""

    def handle(self) -> None:
        self.request.setblocking(False)
        with selectors.DefaultSelector() as selector:
            selector.register(self.request, selectors.EVENT_READ)

            def receive(size: int) -> bytes:
                selector.select()
                return bytes(self.request.recv(size))

            def write(data: bytes) -> int:
                select.select([], [self.request], [])
                return int(self.request.send(data))

            talk(receive, write)


class Polling(socketserver.BaseRequestHandler):
    """By poll(2) with a timeout, and reads that do not wait."""

    def handle(self) -> None:
        poll = select.poll()
        poll.register(self.request, select.POLLIN)

        def receive(size: int) -> bytes:
            while not poll.poll(20):
                pass
            return bytes(self.request.recv(size, socket.MSG_DONTWAIT))

        talk(receive, self.request.sendall)


class Loop(socketserver.BaseRequestHandler):
    """By a loop of asyncio, with a transport on the socket."""

    def handle(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        reader, writer = await asyncio.open_connection(sock=self.request.dup())
        for_all = asyncio.get_running_loop()

        def receive(_size: int) -> bytes:
            return asyncio.run_coroutine_threadsafe(reader.read(1024), for_all).result()

        def write(data: bytes) -> None:
            for_all.call_soon_threadsafe(writer.write, data)

        await for_all.run_in_executor(None, talk, receive, write)
        writer.close()
        # Or the end of the loop throws away what the client has not taken yet.
        await writer.wait_closed()


class LoopOnRequest(socketserver.BaseRequestHandler):
    """By the loop's own calls for sockets."""

    def handle(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        self.request.setblocking(False)

        def receive(size: int) -> bytes:
            call = loop.sock_recv(self.request, size)
            return asyncio.run_coroutine_threadsafe(call, loop).result()

        def write(data: bytes) -> None:
            asyncio.run_coroutine_threadsafe(loop.sock_sendall(self.request, data), loop).result()

        await loop.run_in_executor(None, talk, receive, write)


SCRIPT = """if True:
    import os
    from support.odd import talk
    talk(lambda size: os.read(0, size), lambda data: os.write(1, data))
"""


class Program(socketserver.BaseRequestHandler):
    """By a program that has the connection as its input and output, as under inetd."""

    def handle(self) -> None:
        command = [sys.executable, "-c", SCRIPT]
        subprocess.run(command, stdin=self.request, stdout=self.request, check=False)


class Forked(socketserver.BaseRequestHandler):
    """By a child that is waited for."""

    def handle(self) -> None:
        pid = os.fork()
        if not pid:
            talk(self.request.recv, self.request.sendall)
            os._exit(0)
        os.waitpid(pid, 0)


class LeftToChild(socketserver.BaseRequestHandler):
    """By a child, while the handler returns."""

    def handle(self) -> None:
        if not os.fork():
            talk(self.request.recv, self.request.sendall)
            os._exit(0)
        self.request.close()


class Multiprocessing(socketserver.BaseRequestHandler):
    """By a process of `multiprocessing`, to which the socket is sent."""

    def handle(self) -> None:
        context = multiprocessing.get_context("spawn")
        with self.request.dup() as sock:
            process = context.Process(target=talk_over, args=(sock,))
            process.start()
            process.join()


def talk_over(sock: socket.socket) -> None:
    talk(sock.recv, sock.sendall)


class Exiting(socketserver.BaseRequestHandler):
    """Ends by sys.exit()."""

    def handle(self) -> None:
        talk(self.request.recv, self.request.sendall)
        sys.exit(1)


class FailingFinish(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        talk(self.request.recv, self.request.sendall)

    def finish(self) -> None:
        raise LookupError("odd")


class HeldOpen(socketserver.BaseRequestHandler):
    """Keeps a file of each request for ever."""

    held: ClassVar[list[Any]] = []

    def handle(self) -> None:
        self.held.append(self.request.makefile("rb"))
        talk(self.request.recv, self.request.sendall)


class HeldDuplicate(HeldOpen):
    """Keeps a duplicate of each request for ever."""

    def handle(self) -> None:
        self.held.append(self.request.dup())
        talk(self.request.recv, self.request.sendall)


class InContext(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        with self.request as request:
            talk(request.recv, request.sendall)


class Detached(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        with socket.socket(fileno=self.request.detach()) as sock:
            talk(sock.recv, sock.sendall)


ALL = [
    name
    for name, value in list(vars().items())
    if isinstance(value, type) and issubclass(value, socketserver.BaseRequestHandler)
]

UNNOTED = ["Duplicated", "DuplicateSendfile", "DuplicateFile", "SocketOfDuplicate", "Splice"]
"""Handlers whose writes no wrapper of the socket can note, and that start no process."""


class Signals(socketserver.BaseRequestHandler):
    """Asks a child process which signals it ignores, blocks and catches."""

    def handle(self) -> None:
        self.request.recv(1024)
        words = ["SigIgn:", "SigBlk:", "SigCgt:"]
        found = subprocess.run(
            ["cat", "/proc/self/status"], capture_output=True, text=True, check=True
        )
        fields = dict(line.split("\t", 1) for line in found.stdout.splitlines() if "\t" in line)
        self.request.sendall(" ".join(fields[word] for word in words).encode())
