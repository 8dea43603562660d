"""Clients by the thousand, a few of them hostile: a process of their own.

``python -m robustness.crowd ADDRESS... CLIENTS RATE`` connects CLIENTS in all to HOST:PORT
addresses, of which one in a hundred is hostile, and makes RATE connections a second besides.  It
says ``ready`` when all are there; when the line ``storm`` comes it becomes hostile.  It ends when
the server has closed them all, and says what they have heard, as JSON.

The processes run with the lowest priority, and should have a processor of their own where there is
one: clients elsewhere would take no processor time here, and a kernel that does not preempt itself
lets what they do in it hold up the others for some 2 ms.
"""

from __future__ import annotations

import errno
import json
import os
import resource
import select
import socket
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from signal import SIGCONT, SIGKILL, SIGSTOP

from support import FAREWELL, PATIENCE, environment

Address = tuple[str, int]
_LINGER = struct.pack("ii", 1, 0)
_AT_ONCE = 256
"""Connections that wait to be accepted."""


class Crowd:
    """The processes; a context manager."""

    def __init__(self, addresses: Sequence[str], clients: int, rate: int) -> None:
        self._command = [sys.executable, "-m", __name__, *addresses, str(clients), str(rate)]

    def __enter__(self) -> Crowd:
        self._process = subprocess.Popen(
            self._command,
            env=environment({"PYTHONWARNINGS": "error,ignore::ResourceWarning"}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line == "ready\n", line
        return self

    def storm(self) -> None:
        """Become hostile."""
        assert self._process.stdin is not None
        self._process.stdin.write("storm\n")
        self._process.stdin.flush()

    def pause(self) -> None:
        """Do nothing for a while."""
        os.killpg(self._process.pid, SIGSTOP)

    def go_on(self) -> None:
        """Do what was done before."""
        os.killpg(self._process.pid, SIGCONT)

    def report(self) -> dict[str, int]:
        """What they have heard, when the server has closed."""
        out, _ = self._process.communicate(timeout=PATIENCE)
        assert self._process.returncode == 0
        found: dict[str, int] = json.loads(out)
        return found

    def __exit__(self, *_failure: object) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, SIGKILL)
        self._process.communicate()


# Inside of the process.


def _parse(text: str) -> Address:
    host, _, port = text.rpartition(":")
    return host, int(port)


class _Client:
    """One of the clients, and how it misbehaves."""

    def __init__(self, address: Address, kind: str) -> None:
        self.address = address
        self.kind = kind
        self.heard = b""
        self.connect()

    def connect(self) -> None:
        self.sock = socket.socket()
        self.sock.setblocking(False)
        if self.kind == "never reads":
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.sock.connect_ex(self.address)

    def reset(self) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER)
        self.sock.close()


KINDS = ["a byte a second", "never reads", "resets", "half-open"]


class _Mass:
    """All clients, in one epoll set."""

    def __init__(self, addresses: list[Address], number: int) -> None:
        self.epoll = select.epoll()
        self.by_fd: dict[int, _Client] = {}
        self.tally: Counter[str] = Counter()
        self.hostile: list[_Client] = []
        hostile = number // 100
        for begin in range(0, number, _AT_ONCE):
            group = [
                _Client(addresses[i % len(addresses)], KINDS[i % 4] if i < hostile else "idle")
                for i in range(begin, min(begin + _AT_ONCE, number))
            ]
            self._await(group)
            for client in group:
                self.add(client)

    def _await(self, group: list[_Client]) -> None:
        """Until they are connected, and have been accepted: one of them gets an answer."""
        poll = select.poll()
        for client in group:
            poll.register(client.sock, select.POLLOUT)
        waiting = {client.sock.fileno() for client in group}
        while waiting:
            for fd, _ in poll.poll(PATIENCE * 1000):
                poll.unregister(fd)
                waiting.remove(fd)
        last = group[-1].sock
        last.setblocking(True)
        last.sendall(b"x")
        assert last.recv(1) == b"x"
        last.setblocking(False)

    def add(self, client: _Client) -> None:
        self.by_fd[client.sock.fileno()] = client
        if client.kind != "never reads":
            self.epoll.register(client.sock, select.EPOLLIN)
        if client.kind != "idle":
            self.hostile.append(client)

    def remove(self, client: _Client) -> None:
        del self.by_fd[client.sock.fileno()]
        if client in self.hostile:
            self.hostile.remove(client)

    def read(self, seconds: float) -> None:
        for fd, _ in self.epoll.poll(seconds):
            client = self.by_fd[fd]
            try:
                data = client.sock.recv(65536)
            except BlockingIOError:
                continue
            except ConnectionError:
                self.tally[f"{client.kind}: reset"] += 1
                self.remove(client)
                client.sock.close()
                continue
            client.heard = (client.heard + data)[-64:]
            if not data:
                told = FAREWELL in client.heard
                self.tally[f"{client.kind}: {'told' if told else 'not told'}"] += 1
                self.remove(client)
                client.sock.close()

    # Hostility.

    def misbehave(self, tick: int) -> bool:
        """Ten times a second; returns whether the server is still there."""
        for client in list(self.hostile):
            try:
                self._misbehave(client, tick)
            except BlockingIOError:
                continue
            except OSError as error:
                if error.errno not in {errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN}:
                    raise
                if client.kind == "never reads":
                    self.tally["never reads"] += 1
                    self.remove(client)
                    client.sock.close()
        return bool(self.by_fd)

    def _misbehave(self, client: _Client, tick: int) -> None:
        if client.kind == "a byte a second":
            if tick % 10 == 0:
                client.sock.send(b"x")
        elif client.kind == "never reads":
            while True:
                client.sock.send(bytes(1 << 16))
        elif client.kind == "resets":
            client.sock.send(bytes(100))
            self.remove(client)
            client.reset()
            self._again(client)
        elif client.kind == "half-open":
            client.sock.send(bytes(100))
            client.sock.shutdown(socket.SHUT_WR)

    def _again(self, client: _Client) -> None:
        client.connect()
        self.add(client)


def _storm(addresses: list[Address], rate: int) -> int:
    """So many connections a second, until connections are refused; returns how many."""
    made, number = 0, 0
    began = time.monotonic()
    pause = select.poll()
    while True:
        due = int((time.monotonic() - began) * rate)
        if made >= due:
            pause.poll(1)
            continue
        # What cannot be made up for is not.
        for _ in range(min(due - made, 100)):
            sock = socket.socket()
            try:
                sock.setblocking(True)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER)
                sock.connect(addresses[number % len(addresses)])
            except (ConnectionError, OSError):
                return made
            finally:
                sock.close()
            number += 1
            made += 1
        if due - made > rate:
            began = time.monotonic() - made / rate


class _Child:
    """A process that waits until it is told to begin, and says a number at the end."""

    def __init__(self, action: Callable[[], int]) -> None:
        begin, self._begin = os.pipe()
        self._result, result = os.pipe()
        self._pid = os.fork()
        if not self._pid:
            os.close(self._begin)
            os.read(begin, 1)
            os.write(result, str(action()).encode())
            os._exit(0)
        os.close(begin)
        os.close(result)

    def begin(self) -> None:
        os.close(self._begin)

    def result(self) -> int:
        os.waitpid(self._pid, 0)
        return int(os.read(self._result, 100))


def _main() -> None:
    *texts, number, rate = sys.argv[1:]
    addresses = [_parse(text) for text in texts]
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    storm = _Child(lambda: _storm(addresses, int(rate)))
    mass = _Mass(addresses, int(number))
    print("ready", flush=True)
    if sys.stdin.readline() != "storm\n":
        return
    storm.begin()
    began, tick = time.monotonic(), 0
    while mass.by_fd:
        mass.read(0.1)
        if time.monotonic() >= began + tick / 10:
            tick += 1
            mass.misbehave(tick)
    made = storm.result()
    print(json.dumps({**mass.tally, "storm": made, "seconds": int(time.monotonic() - began)}))


if __name__ == "__main__":
    _main()
