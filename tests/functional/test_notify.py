"""What a service manager hears: sd_notify(3) over a real datagram socket, in both modes."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from signal import SIGTERM
from time import monotonic

import pytest

from support import (
    PATIENCE,
    Daemon,
    Graced,
    NotifySocket,
    environment,
    fill_queue,
    launch,
    wait_for_end,
)

KINDS = pytest.mark.parametrize("kind", [Graced, Daemon], ids=["foreground", "daemon"])
Kind = type[Graced | Daemon]
PERIOD = 1.2
"""Seconds: of which a third is more than an I/O thread of a busy machine needs to answer."""
WATCHDOG = f"""
import os
os.environ["WATCHDOG_PID"] = str(os.getpid())
os.environ["WATCHDOG_USEC"] = "{int(PERIOD * 1_000_000)}"
"""
BLOCKING = ("--handler", "support.handlers:BlockingHandler")


def sequence(graced: Graced | Daemon, rest: list[str], end: str) -> list[tuple[str, int]]:
    """The expected messages until the daemon serves, then `rest`, then the end."""
    place = f"on {graced.addresses[0]}"
    ready = f"READY=1\nSTATUS=serving: 0 clients now, 0 so far, 0 bytes echoed {place}"
    keeps = [
        "FDSTORE=1\nFDNAME=graced-listeners",
        "FDSTORE=1\nFDNAME=graced-clients\nFDPOLL=0",
    ]
    if isinstance(graced, Daemon):
        start = [
            (f"MAINPID={graced.pid}", graced.command_pid),
            ("BARRIER=1", graced.command_pid),
        ]
        rest = [ready, *keeps, "BARRIER=1", *rest]
    else:
        start = []
        rest = [ready, *keeps, *rest]
    rest.append(f"STATUS=stopped: {end} at the deadline")
    return [*start, *((text, graced.pid) for text in rest)]


EXTENDING = "\nEXTEND_TIMEOUT_USEC=10000000"
"""Said each second of the drain."""
FORGET = "FDSTOREREMOVE=1\nFDNAME=graced-listeners"


def said(notify: NotifySocket) -> list[tuple[str, int]]:
    return [(message.text, message.sender) for message in notify.messages]


@KINDS
def test_start_and_stop_without_client(kind: Kind, notify_socket: NotifySocket) -> None:
    with kind(env=notify_socket.environment) as graced:
        notify_socket.wait_for("READY=1")
        assert graced.stop() == 0
    stopping = f"STOPPING=1\nSTATUS=draining: 0 clients remaining, 5 s to go{EXTENDING}"
    assert said(notify_socket) == sequence(
        graced, [stopping, FORGET], "0 clients departed, 0 closed"
    )


@KINDS
def test_start_status_drain_and_stop(kind: Kind, notify_socket: NotifySocket) -> None:
    with kind("--grace", "3", env=notify_socket.environment) as graced, graced.connect() as client:
        client.echo(b"hello")
        place = f"on {graced.addresses[0]}"
        serving = f"STATUS=serving: 1 client now, 1 so far, 5 bytes echoed {place}"
        notify_socket.wait_for(serving)
        graced.signal(SIGTERM)
        client.expect_farewell_alone()
        assert graced.wait() == 0
    remaining = "STATUS=draining: 1 client remaining"
    rest = [
        serving,
        f"STOPPING=1\n{remaining}, 3 s to go{EXTENDING}",
        f"{remaining}, 2 s to go{EXTENDING}",
        f"{remaining}, 1 s to go{EXTENDING}",
        FORGET,
    ]
    # Where a second passes between the client's coming and its word, that is news as well.
    between = (f"STATUS=serving: 1 client now, 1 so far, 0 bytes echoed {place}", graced.pid)
    found = [message for message in said(notify_socket) if message != between]
    assert found == sequence(graced, rest, "0 clients departed, 1 closed")


def test_long_grace_asks_for_more_time_again_and_again(notify_socket: NotifySocket) -> None:
    with (
        Graced("--grace", "3600", env=notify_socket.environment) as graced,
        graced.served() as client,
    ):
        graced.signal(SIGTERM)
        client.expect_farewell_alone()
        notify_socket.wait_for(EXTENDING, 3)


def test_stopping_is_said_before_clients_are_told(notify_socket: NotifySocket) -> None:
    with Graced(env=notify_socket.environment) as graced, graced.served() as client:
        graced.signal(SIGTERM)
        client.expect_farewell_alone()
        notify_socket.wait_for("STOPPING=1")
        client.close()
        assert graced.wait() == 0
        assert "STOPPING=1" in notify_socket.texts[-3]


@pytest.mark.parametrize(
    ("option", "value", "why"),
    [
        ("--listen", "unix:/nonexistent/socket", "cannot listen on unix:/nonexistent/socket"),
        ("--grace", "soon", "--grace"),
        ("--handler", "nowhere:Handler", "nowhere"),
        ("--pid-file", "/nonexistent/pid", "cannot write pidfile /nonexistent/pid"),
    ],
)
def test_the_status_says_why_a_start_is_refused(
    option: str, value: str, why: str, notify_socket: NotifySocket
) -> None:
    command = [*launch(), "--config", "/dev/null", "--listen", "127.0.0.1:0", option, value]
    ended = subprocess.run(
        command,
        check=False,
        env=environment(notify_socket.environment),
        capture_output=True,
        text=True,
    )
    assert ended.returncode in {2, 69, 73, 78}
    status = notify_socket.wait_for("STATUS=").text
    assert status.startswith("STATUS=cannot start: ")
    assert why in status
    assert "\n" not in status


@pytest.mark.parametrize("handler", ["echo", "echo-threaded"])
def test_status_is_sent_at_changes_at_most_once_per_second(
    handler: str, notify_socket: NotifySocket
) -> None:
    with Graced("--handler", handler, env=notify_socket.environment) as graced:
        began = monotonic()
        number = 0
        while monotonic() < began + 2.5:
            with graced.connect() as client:
                client.echo(b"x" * 100)
                number += 1
        last = f"STATUS=serving: 0 clients now, {number} so far, {number * 100} bytes echoed"
        notify_socket.wait_for(last)
        elapsed = monotonic() - began
        # One a second, but for READY, which is said at the start.
        assert 3 <= notify_socket.count("STATUS=") <= elapsed + 2
        # Nothing changes any more, nothing is said.
        assert notify_socket.stays_silent("", 1.2)


@KINDS
def test_watchdog_is_fed(kind: Kind, notify_socket: NotifySocket) -> None:
    with kind(env=notify_socket.environment, before=WATCHDOG) as graced, graced.served() as client:
        notify_socket.wait_for("WATCHDOG=1", 3)
        graced.signal(SIGTERM)
        client.expect_farewell_alone()
        # In the drain as well: it may be long.
        notify_socket.wait_for("WATCHDOG=1", notify_socket.count("WATCHDOG=1") + 2)
        client.close()
        assert graced.wait() == 0
    assert {m.sender for m in notify_socket.messages if m.text == "WATCHDOG=1"} == {graced.pid}


@KINDS
def test_watchdog_is_not_fed_while_io_thread_hangs(kind: Kind, notify_socket: NotifySocket) -> None:
    with (
        kind(*BLOCKING, env=notify_socket.environment, before=WATCHDOG) as graced,
        graced.connect() as victim,
        graced.connect() as rescuer,
    ):
        for client in (victim, rescuer):
            client.echo(b"hello")
        notify_socket.wait_for("WATCHDOG=1")
        late = r"^<4>an I/O thread has not turned for [\d.]+ s, not feeding the watchdog$"
        before = graced.log.count(late)
        victim.echo(b"hang")
        graced.log.wait_for(late, before + 1)
        assert notify_socket.stays_silent("WATCHDOG=1", 2 * PERIOD)
        # It has been said, and once is enough.
        assert graced.log.count(late) == before + 1
        fed = notify_socket.count("WATCHDOG=1")
        rescuer.echo(b"go on")
        notify_socket.wait_for("WATCHDOG=1", fed + 2)


@pytest.mark.parametrize(
    "wrong",
    ['os.environ["WATCHDOG_PID"] = "1"', 'del os.environ["WATCHDOG_USEC"]'],
    ids=["of another process", "none"],
)
def test_watchdog_that_is_not_ours_is_not_fed(wrong: str, notify_socket: NotifySocket) -> None:
    with Graced(env=notify_socket.environment, before=WATCHDOG + wrong) as graced:
        notify_socket.wait_for("READY=1")
        assert notify_socket.stays_silent("WATCHDOG=1", 2 * PERIOD)
        assert graced.stop() == 0


@KINDS
def test_abstract_address(kind: Kind) -> None:
    with NotifySocket(abstract=True) as notify:
        with kind(env=notify.environment) as graced:
            notify.wait_for("READY=1")
            assert graced.stop() == 0
        notify.wait_for("STOPPING=1")


def test_command_returns_after_its_messages_are_read(
    tmp_path: Path, notify_socket: NotifySocket
) -> None:
    """BARRIER=1: else a service manager may reap the sender before it has read the message."""
    notify_socket.hold_barriers = True
    with started(notify_socket, tmp_path) as returned:
        pid = int(notify_socket.wait_for("MAINPID=").text.removeprefix("MAINPID="))
        notify_socket.wait_for("BARRIER=1")
        # Not even the daemon goes on before the main pid is known.
        assert notify_socket.stays_silent("READY=1", 0.3)
        notify_socket.release()
        notify_socket.wait_for("READY=1")
        assert returned() == 0
        os.kill(pid, SIGTERM)
        assert wait_for_end(pid) == 0


@contextmanager
def started(notify: NotifySocket, directory: Path) -> Iterator[Callable[[], int]]:
    command = subprocess.Popen(
        [
            *launch(),
            *("--daemon", "--config", "/dev/null", "--pid-file", str(directory / "pid")),
            *("--listen", f"unix:{directory}/socket"),
        ],
        env=environment(notify.environment),
    )
    try:
        yield lambda: command.wait(PATIENCE)
    finally:
        command.kill()
        command.wait()


@KINDS
@pytest.mark.parametrize(
    "path",
    ["/no/such/socket", "relative", "@", "/" + "x" * 200],
    ids=["none", "relative", "@", "long"],
)
def test_broken_socket_is_one_warning(kind: Kind, path: str) -> None:
    with (
        kind(env={"NOTIFY_SOCKET": path, "PYTHONWARNINGS": "default"}) as graced,
        graced.connect() as client,
    ):
        client.echo(b"hello")
        graced.signal(SIGTERM)
        client.expect_farewell_alone()
        client.close()
        assert graced.wait() == 0
    assert graced.log.count("^<4>cannot talk to the service manager: ") == 1


def test_service_manager_that_disappears_is_one_warning() -> None:
    with NotifySocket() as notify:
        graced = Graced("--grace", "2", env=notify.environment)
        graced.__enter__()
        notify.wait_for("READY=1")
    try:
        with graced.connect() as client:
            client.echo(b"hello")
            graced.log.wait_for("^<4>cannot talk to the service manager: .*Connection refused$")
            graced.signal(SIGTERM)
            client.expect_farewell_alone()
            client.close()
            assert graced.wait() == 0
        assert graced.log.count("cannot talk") == 1
    finally:
        graced.__exit__(None, None, None)


def test_service_manager_that_does_not_read_holds_nothing_up(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as deaf:
        deaf.bind(str(tmp_path / "notify"))
        env = {"NOTIFY_SOCKET": str(tmp_path / "notify")}
        with Graced("--grace", "1", env=env) as graced, graced.connect() as client:
            fill_queue(env["NOTIFY_SOCKET"])
            client.echo(b"hello")
            graced.signal(SIGTERM)
            client.expect_farewell_alone()
            assert graced.wait() == 0


def test_service_manager_is_not_mentioned_without_one() -> None:
    with Graced() as graced:
        assert graced.stop() == 0
        assert not graced.log.count("service manager")
