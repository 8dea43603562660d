"""A log without a reader: the echo does not wait, the stop is punctual, the loss is counted."""

from __future__ import annotations

import fcntl
import os
import re
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from signal import SIGINT, SIGTERM

import pytest

from graced.log import events
from graced.log.event import Record
from graced.log.sinks import Journal, Syslog
from robustness.handlers import HERE, LINES
from robustness.measure import median, percentile, ping_pong
from robustness.scale import scaled
from support import (
    FAREWELL,
    MACHINE,
    MOMENT,
    PATIENCE,
    Client,
    Graced,
    Log,
    NotifySocket,
    environment,
    launch,
)

GRACE = 1.0
ROUNDS = scaled(5, 15)
SECONDS = scaled(0.3, 1.0)


class FullPipe:
    """A graced whose stdout and stderr are a pipe that was full before it started."""

    def __init__(self, directory: Path, notify: NotifySocket, *options: str) -> None:
        self._path = directory / "socket"
        self._notify = notify
        self._options = options

    def __enter__(self) -> FullPipe:
        self._read, write = os.pipe()
        self._size = _fill(write)
        try:
            self.process = subprocess.Popen(
                [
                    *launch(),
                    *("--config", os.devnull, "--grace", str(GRACE)),
                    *("--listen", f"unix:{self._path}", *self._options),
                ],
                env=environment(self._notify.environment),
                stdin=subprocess.DEVNULL,
                stdout=write,
                stderr=write,
            )
        finally:
            os.close(write)
        self._notify.wait_for("READY=1")
        return self

    def connect(self) -> Client:
        return Client.connect(f"unix:{self._path}")

    def read(self) -> Log:
        """Read it after all, to its end."""
        log = Log.of_pipe(self._read)
        self._read = -1
        return log

    def stop(self) -> float:
        """SIGTERM; returns how long it took."""
        began = time.monotonic()
        self.process.send_signal(SIGTERM)
        assert self.process.wait(PATIENCE) == 0
        return time.monotonic() - began

    def __exit__(self, *_failure: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        if self._read >= 0:
            os.close(self._read)


def _fill(write: int) -> int:
    """Write lines until nothing more goes in; returns how many bytes."""
    flags = fcntl.fcntl(write, fcntl.F_GETFL)
    fcntl.fcntl(write, fcntl.F_SETFL, flags | os.O_NONBLOCK)
    written = 0
    try:
        while True:
            written += os.write(write, b"\n")
    except BlockingIOError:
        fcntl.fcntl(write, fcntl.F_SETFL, flags)
    return written


@pytest.fixture
def full(tmp_path: Path, notify_socket: NotifySocket) -> Iterator[FullPipe]:
    with FullPipe(tmp_path, notify_socket, "-v") as full:
        yield full


def test_echo_does_not_wait_for_the_log(
    full: FullPipe, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    with Graced("-v", listen=f"unix:{other}/socket") as graced, ExitStack() as stack:
        read = [stack.enter_context(graced.connect()) for _ in range(16)]
        unread = [stack.enter_context(full.connect()) for _ in range(16)]
        # More records than the queue has room for.
        ping_pong(read, 0.5)
        ping_pong(unread, 0.5)
        normal, pressed = [], []
        for _ in range(ROUNDS):
            normal.append(percentile(ping_pong(read, SECONDS), 99))
            pressed.append(percentile(ping_pong(unread, SECONDS), 99))
        # An echo that waited for the log would not come at all: nobody reads the pipe.
        figures = {
            "p99 with a log that is read, us": round(1e6 * median(normal)),
            "p99 with a full pipe, us": round(1e6 * median(pressed)),
        }
        print(figures)
        for name, value in figures.items():
            record_property(name, value)
        # The clients stay: the whole grace period, and no more.
        took = full.stop()
        print(f"stopped in {took:.3f} s")
        assert GRACE <= took <= GRACE + MOMENT + MACHINE
        for client in unread:
            assert client.recv_to_end() == FAREWELL
        stack.close()
        assert graced.stop() == 0


def test_impatient_stop_is_fast(full: FullPipe) -> None:
    with full.connect() as client:
        client.echo(b"here")
        full.process.send_signal(SIGTERM)
        client.expect_farewell_alone()
        began = time.monotonic()
        full.process.send_signal(SIGINT)
        assert full.process.wait(PATIENCE) == 0
        assert time.monotonic() - began < GRACE


def test_lost_records_are_counted(tmp_path: Path, notify_socket: NotifySocket) -> None:
    handler = ("--handler", f"{HERE}:Chatty")
    with FullPipe(tmp_path, notify_socket, *handler) as full, full.connect() as client:
        client.echo(b"here")
        # All is logged before this is back.
        client.echo(b"chat")
        log = full.read()
        log.wait_for("<4>dropped [0-9]+ log record")
        client.close()
        full.stop()
        log.close()
        dropped = sum(int(m[1]) for m in log.matches(r"dropped (\d+) log record"))
        numbers = [int(match[1]) for match in log.matches(rf"<6>chat (\d+) of {LINES}$")]
        assert dropped > 0
        assert len(numbers) + dropped == LINES
        assert numbers == sorted(numbers)
        assert re.search("stopped after", log.lines[-1])


@pytest.mark.parametrize("target", ["/dev/full", "closed pipe"])
def test_log_that_cannot_be_written(
    target: str, tmp_path: Path, notify_socket: NotifySocket
) -> None:
    if target == "/dev/full":
        fd = os.open(target, os.O_WRONLY)
    else:
        read, fd = os.pipe()
        os.close(read)
    process = subprocess.Popen(
        [
            *launch(),
            *("--config", os.devnull, "--grace", "1", "--listen", f"unix:{tmp_path}/socket"),
        ],
        env=environment(notify_socket.environment),
        stdout=fd,
        stderr=fd,
    )
    os.close(fd)
    try:
        notify_socket.wait_for("READY=1")
        with Client.connect(f"unix:{tmp_path}/socket") as client:
            client.echo(b"here")
            process.send_signal(SIGTERM)
            client.expect_farewell_alone()
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
        process.wait()


def test_start_that_fails_says_its_status_to_log_that_cannot_be_written() -> None:
    with open("/dev/full", "w") as full:
        process = subprocess.run(
            [*launch(), "--nonsense"], env=environment(), stderr=full, check=False
        )
    assert process.returncode == 2


@pytest.mark.parametrize("kind", [Syslog, Journal])
def test_log_daemon_that_is_restarted(kind: type[Syslog | Journal], tmp_path: Path) -> None:
    """It makes its socket again, and gets what was said meanwhile."""
    path = tmp_path / "log"
    record = Record(events.STATUS, {"status": "hello"})
    meanwhile = Record(events.STATUS, {"status": "meanwhile"})
    with _log_daemon(path) as first:
        sink = kind(str(path))
        try:
            sink.write(record)
            assert b"hello" in first.recv(4096)
            path.unlink()
            first.close()
            sink.write(meanwhile)
            with _log_daemon(path) as second:
                sink.write(record)
                assert b"meanwhile" in second.recv(4096)
                assert b"hello" in second.recv(4096)
        finally:
            sink.close()


@contextmanager
def _log_daemon(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.settimeout(PATIENCE)
        sock.bind(str(path))
        yield sock
