"""A client that sends and does not read: all that had arrived is echoed before the farewell."""

from __future__ import annotations

import fcntl
import socket
import struct
import sys
import termios
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from signal import SIGTERM, SIGUSR2

import pytest

from support import FAREWELL, PASS, PATIENCE, FdStore, Graced, settled

BLOCK = bytes(range(32, 127)) * 690
"""Of no bytes of which the farewell could be made by chance, but for its own letters in a row."""


def stuff(sock: socket.socket, pid: int) -> int:
    """Send until the server takes no more; return how many bytes the server has acknowledged.

    A busy machine may keep the server, the process `pid`, from taking more, and the kernel may drop
    segments and send them again seconds later: the server has to be asleep before unread bytes.
    """
    sock.setblocking(False)
    sent = 0
    while True:
        try:
            sent += sock.send(BLOCK[sent % len(BLOCK) :])
        except BlockingIOError:
            # The kernel moves bytes for a moment after that: full is full when nothing moves.
            before = unacknowledged(sock)
            sock.setblocking(True)
            sock.settimeout(0.3)
            try:
                sent += sock.send(BLOCK[sent % len(BLOCK) :])
            except TimeoutError:
                if settled(pid) and unacknowledged(sock) == before and unread_by_server(sock):
                    return sent - before
            finally:
                sock.setblocking(False)


def unacknowledged(sock: socket.socket) -> int:
    return int(struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, b"\0" * 4))[0])


def unread_by_server(sock: socket.socket) -> int:
    """Bytes that have arrived and that the server has not read."""
    if sock.family == socket.AF_UNIX:
        return unacknowledged(sock)
    try:
        ends = sock.getpeername(), sock.getsockname()
    except OSError:
        # It is not connected any more, and the next send(2) says so.
        return 0
    server, client = (
        f"{int.from_bytes(socket.inet_aton(host), sys.byteorder):08X}:{port:04X}"
        for host, port in ends
    )
    for line in Path("/proc/net/tcp").read_text().splitlines():
        _, local, remote, _, queues, *_ = line.split()
        if (local, remote) == (server, client):
            return int(queues.partition(":")[2], 16)
    return 0


def read_to_farewell(sock: socket.socket) -> int:
    """How many bytes of echo come before the farewell, each of which is right.

    A client that reads later than `farewell_gap` finds the next bytes behind the farewell.
    """
    sock.settimeout(PATIENCE)
    received = bytearray()
    searched = 0
    while (at := received.find(FAREWELL, searched)) < 0:
        searched = max(0, len(received) - len(FAREWELL))
        data = sock.recv(len(BLOCK))
        assert data, f"the end after {len(received)} bytes"
        received += data
    assert received[:at] == (BLOCK * (at // len(BLOCK) + 1))[:at]
    return at


def next_start(store: FdStore, *options: str, listen: str) -> Graced:
    env, fds = store.environment, store.descriptors
    return Graced(*options, listen=listen, env=env, before=PASS, pass_fds=fds)


@pytest.mark.parametrize("path", [False, True], ids=["tcp", "unix"])
def test_all_that_had_arrived_is_echoed_before_the_farewell(path: bool, tmp_path: Path) -> None:
    listen = f"unix:{tmp_path}/socket" if path else "127.0.0.1:0"
    with Graced("--grace", "20", listen=listen) as graced, graced.connect() as client:
        acknowledged = stuff(client.sock, graced.pid)
        graced.signal(SIGTERM)
        graced.log.wait_for("closing in")
        assert read_to_farewell(client.sock) >= acknowledged > 1024 * 1024 * (not path)


@pytest.mark.parametrize("path", [False, True], ids=["tcp", "unix"])
def test_half_closed_client_that_stalls_gets_everything(path: bool, tmp_path: Path) -> None:
    """It has sent its end of file; what the kernel still had to deliver comes back as well."""
    listen = f"unix:{tmp_path}/socket" if path else "127.0.0.1:0"
    with (
        Graced("--grace", "20", listen=listen) as graced,
        graced.connect() as client,
        graced.served() as other,
    ):
        acknowledged = stuff(client.sock, graced.pid)
        sent = acknowledged + unacknowledged(client.sock) * (not path)
        client.sock.shutdown(socket.SHUT_WR)
        graced.signal(SIGTERM)
        # The drain has begun when another client hears of it.
        other.expect_farewell_alone()
        other.close()
        client.sock.settimeout(PATIENCE)
        received = bytearray()
        while data := client.sock.recv(1024 * 1024):
            received += data
        at = received.index(FAREWELL)
        assert at >= acknowledged
        del received[at : at + len(FAREWELL)]
        assert FAREWELL not in received
        assert len(received) >= sent
        assert received == (BLOCK * (len(received) // len(BLOCK) + 1))[: len(received)]
        client.close()
        assert graced.wait() == 0


def test_user_timeout_ends_a_client_that_stalls() -> None:
    """The kernel counts a client that takes nothing as one that does not acknowledge."""
    config = "[server]\nuser_timeout = 0.2\n[limits]\nstall_timeout = 0"
    with Graced(config=config) as graced, graced.connect() as client:
        with suppress(ConnectionError):
            stuff(client.sock, graced.pid)
        graced.log.wait_for("closing connection from .*: Connection timed out")


HANDLERS = [
    "echo-threaded",
    "support.handlers:TellingHandler",
    "support.streams:TellingEcho",
    "support.streams:BufferedTellingEcho",
    "support.asynchronous:Polite",
]


@pytest.mark.parametrize("path", [False, True], ids=["tcp", "unix"])
@pytest.mark.parametrize("handler", HANDLERS)
def test_handler_answers_all_that_had_arrived_before_the_farewell(
    handler: str, path: bool, tmp_path: Path
) -> None:
    """The same for handlers that declare a farewell."""
    listen = f"unix:{tmp_path}/socket" if path else "127.0.0.1:0"
    options = ("--handler", handler, "--grace", "60")
    with Graced(*options, listen=listen) as graced, graced.connect() as client:
        acknowledged = stuff(client.sock, graced.pid)
        graced.signal(SIGTERM)
        graced.log.wait_for("closing in")
        assert read_to_farewell(client.sock) >= acknowledged > 0


@pytest.mark.parametrize("path", [False, True], ids=["tcp", "unix"])
@pytest.mark.parametrize(
    "handler", ["echo", "support.streams:MovableEcho", "support.asynchronous:MovableEcho"]
)
def test_client_that_stalls_over_a_restart_gets_everything_before_the_farewell(
    handler: str, path: bool, tmp_path: Path
) -> None:
    listen = f"unix:{tmp_path}/socket" if path else "127.0.0.1:0"
    options = ("--handler", handler, "--grace", "60")
    store = FdStore()
    with store, ExitStack() as stack:
        with Graced(*options, listen=listen, env=store.environment) as first:
            (address,) = first.addresses
            client = stack.enter_context(first.connect())
            acknowledged = stuff(client.sock, first.pid)
            first.signal(SIGUSR2)
            assert first.wait() == 79
        with next_start(store, *options, listen=address) as second:
            second.signal(SIGTERM)
            second.log.wait_for("closing in .*, 1 client remaining")
            assert read_to_farewell(client.sock) >= acknowledged > 0


@pytest.mark.parametrize("path", [False, True], ids=["tcp", "unix"])
def test_blocking_handler_that_waits_for_a_stalled_client_answers_all_that_had_arrived(
    path: bool, tmp_path: Path
) -> None:
    """At a restart its client is told after all that had arrived, by this process or the next.

    A handler that waits in a write is busy until its client reads.  But the signal that freezes the
    handler ends the wait of send(2), and the rest of the message may find room.
    """
    listen = f"unix:{tmp_path}/socket" if path else "127.0.0.1:0"
    options = ("--handler", "echo-threaded", "--grace", "60")
    store = FdStore()
    with store, ExitStack() as stack:
        with Graced(*options, listen=listen, env=store.environment) as first:
            (address,) = first.addresses
            client = stack.enter_context(first.connect())
            acknowledged = stuff(client.sock, first.pid)
            first.signal(SIGUSR2)
            first.log.wait_for(r"SIGUSR2 received, (handing over|1 busy handler)")
            reading = stack.enter_context(ThreadPoolExecutor(1)).submit(
                read_to_farewell, client.sock
            )
            if first.log.wait_for(r"SIGUSR2 received, handing over (\d)")[1] == "0":
                assert reading.result(PATIENCE) >= acknowledged > 0
                client.close()
                assert first.wait() == 79
                return
            assert first.wait() == 79
        with next_start(store, *options, listen=address) as second:
            second.signal(SIGTERM)
            assert reading.result(PATIENCE) >= acknowledged > 0


@pytest.mark.parametrize("handler", ["echo", *HANDLERS])
def test_client_that_stalls_to_the_deadline_holds_up_no_other(handler: str) -> None:
    """It takes nothing at all; the other is told at once, and the process ends."""
    with (
        Graced("--handler", handler, "--grace", "3") as graced,
        graced.connect() as deaf,
        graced.served() as other,
    ):
        stuff(deaf.sock, graced.pid)
        graced.signal(SIGTERM)
        other.expect_farewell_alone()
        other.close()
        assert graced.wait() == 0
        assert (graced.stopped.left, graced.stopped.closed) == (1, 1)
