"""Each system call that can fail, made to fail: in service and in the drain.

The outcome of a failure that can happen to a daemon is written down here, and the log has a line
about it: the one client concerned is closed, a log record is dropped and counted.  A failure that
cannot happen to a sound daemon (of epoll_wait) ends it with status 1 and a traceback in the log.
Neither leaves a process, a pidfile or the path of a Unix socket behind, and nothing hangs.
"""

from __future__ import annotations

import os
from contextlib import ExitStack, suppress
from pathlib import Path
from signal import SIGTERM, SIGUSR1
from typing import NamedTuple

import pytest

from graced.loop.acceptor import MAX_LOSSES
from robustness.strace import FORKS, Fault, Injection, Traced
from support import FAREWELL, Client, Graced

pytestmark = pytest.mark.needs("strace")


class Served(NamedTuple):
    """A fault in service, and what becomes of the client that it happens to."""

    fault: Fault
    closed: str = ""
    """Why, where it is closed."""
    handler: str = "echo"

    def __str__(self) -> str:
        return str(self.fault) if self.handler == "echo" else f"{self.fault}-{self.handler}"


ONCE = "1"

ON_A_MESSAGE = [
    Served(Fault("recvfrom", "error=EINTR", ONCE)),
    Served(Fault("recvfrom", "error=EAGAIN", ONCE)),
    Served(Fault("recvfrom", "error=ECONNRESET", ONCE), "reset by the client"),
    Served(Fault("recvfrom", "error=ETIMEDOUT", ONCE), "Connection timed out"),
    Served(Fault("recvfrom", "error=EHOSTUNREACH", ONCE), "No route to host"),
    Served(Fault("recvfrom", "error=ENOMEM", ONCE), "Cannot allocate memory"),
    Served(Fault("recvfrom", "error=EIO", ONCE), "Input/output error"),
    Served(Fault("sendto", "error=EINTR", ONCE)),
    Served(Fault("sendto", "error=EAGAIN", ONCE)),
    Served(Fault("sendto", "error=EAGAIN", "1..3")),
    Served(Fault("sendto", "error=EPIPE", ONCE), "reset by the client"),
    Served(Fault("sendto", "error=ECONNRESET", ONCE), "reset by the client"),
    Served(Fault("sendto", "error=ENOBUFS", ONCE), "No buffer space available"),
    Served(Fault("sendto", "error=ENOMEM", ONCE), "Cannot allocate memory"),
    Served(Fault("epoll_wait", "error=EINTR", ONCE)),
    Served(Fault("recvfrom", "error=ECONNRESET", ONCE), "reset by the client", "echo-threaded"),
    Served(Fault("recvfrom", "error=EINTR", ONCE), "", "echo-threaded"),
    Served(Fault("sendto", "error=EPIPE", ONCE), "reset by the client", "echo-threaded"),
    Served(Fault("sendto", "error=EINTR", ONCE), "", "echo-threaded"),
]
NO_CAPACITY = ["EMFILE", "ENFILE", "ENOBUFS", "ENOMEM"]
CLIENT_LOST = [
    *("ECONNABORTED", "EPERM", "EPROTO", "ENETDOWN", "ENOPROTOOPT", "EHOSTDOWN", "ENONET"),
    *("EHOSTUNREACH", "EOPNOTSUPP", "ENETUNREACH"),
]
ON_THE_LOG = ["EIO", "ENOSPC", "EAGAIN", "EPIPE", "EINTR"]
FATAL = [
    Fault("epoll_wait", "error=EBADF", ONCE),
    Fault("epoll_wait", "error=ENOMEM", ONCE),
    Fault("accept4", "error=EBADF", ONCE),
    Fault("accept4", "error=EFAULT", ONCE),
    Fault("poll", "error=ENOMEM", ONCE),
]


class Stage:
    """A server, in service or in the drain, with a bystander that must not notice anything."""

    def __init__(self, handler: str, *, draining: bool) -> None:
        self._draining = draining
        self._handler = handler
        self.graced = Graced("--handler", handler, config="[shutdown]\ngrace_period = 120")

    def __enter__(self) -> Stage:
        handler = self._handler
        with ExitStack() as entered:
            entered.enter_context(self.graced)
            self.bystander = entered.enter_context(self.graced.connect())
            if handler == "echo":
                # A thread of its own would make the same calls, and they would fail as well.
                self.bystander.echo(b"here")
            self.victim = entered.enter_context(self.graced.connect())
            self.victim.echo(b"here, too")
            if self._draining:
                self.graced.signal(SIGTERM)
                self.bystander.expect_farewell_alone()
                self.victim.expect_farewell_alone()
                # The first answer after the farewell is a late one.
                self.victim.echo(b"heard")
            self._entered = entered.pop_all()
        return self

    def inject(self, fault: Fault) -> Injection:
        return Injection(self.graced.pid, fault)

    def __exit__(self, *failure: object) -> None:
        with self._entered:
            if failure[0] is None:
                self._leave()

    def _leave(self) -> None:
        """As if nothing had happened."""
        self.bystander.echo(b"still here")
        if not self._draining:
            self.graced.signal(SIGTERM)
            self.bystander.expect_farewell_alone()
        self.bystander.close()
        self.victim.close()
        assert self.graced.wait() == 0
        assert self.graced.log.count("received, closing in") == 1


PHASES = {"service": False, "drain": True}


@pytest.fixture(params=PHASES.values(), ids=list(PHASES))
def draining(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.mark.parametrize("served", ON_A_MESSAGE, ids=str)
def test_failed_call_on_message(served: Served, draining: bool) -> None:
    with Stage(served.handler, draining=draining) as stage:
        victim = stage.victim
        with stage.inject(served.fault):
            if served.closed:
                victim.send(b"unlucky")
                # A call that had begun before, as that of a handler, is none of those that fail.
                assert _rest(victim) in {b"", b"unlucky"}
            else:
                victim.echo(b"lucky")
                victim.echo(b"again")
        if served.closed:
            stage.graced.log.wait_for(f"closing connection from {victim.name}: {served.closed}")


def _rest(client: Client) -> bytes:
    """All until the server closes, in whatever way: with an answer that it could not send."""
    data = b""
    with suppress(ConnectionResetError):
        while chunk := client.recv():
            data += chunk
    return data


@pytest.mark.parametrize("error", CLIENT_LOST)
def test_client_that_is_lost_before_it_is_accepted(error: str, draining: bool) -> None:
    with Stage("echo", draining=draining) as stage:
        # The call fails instead of taking the client: the next call takes it.
        fault = Fault("accept4", f"error={error}", ONCE)
        with stage.inject(fault), stage.graced.connect() as new:
            _is_received(new, draining)


def _is_received(new: Client, draining: bool) -> None:
    if draining:
        new.expect_farewell_alone()
        new.expect_end()
    else:
        new.echo(b"new")


@pytest.mark.parametrize("error", NO_CAPACITY)
def test_no_room_for_client(error: str, draining: bool) -> None:
    """It waits until there is; the others notice nothing, and there is one warning."""
    with Stage("echo", draining=draining) as stage, ExitStack() as entered:
        log = stage.graced.log
        with stage.inject(Fault("accept4", f"error={error}", ONCE)):
            new = entered.enter_context(stage.graced.connect())
            log.wait_for("<4>cannot accept clients")
            stage.bystander.echo(b"unharmed")
        log.wait_for("<6>accepting clients again")
        _is_received(new, draining)
        assert log.count("cannot accept clients") == 1


def test_accept_that_fails_for_every_client() -> None:
    """It is not tried again at once, and clients come in when it works again."""
    with Stage("echo", draining=False) as stage, ExitStack() as entered:
        with stage.inject(Fault("accept4", "error=EPERM")) as injection:
            new = entered.enter_context(stage.graced.connect())
            stage.graced.log.wait_for("<4>cannot accept clients .Operation not permitted")
            stage.bystander.echo(b"unharmed")
            assert len(injection.hits) <= 2 * MAX_LOSSES
        stage.graced.log.wait_for("<6>accepting clients again")
        new.echo(b"new")
        assert stage.graced.log.count("cannot accept clients") == 1


@pytest.mark.parametrize("error", ["ENOMEM", "ENOSPC"])
def test_no_room_for_client_in_epoll_set(error: str, draining: bool) -> None:
    """It is lost, the next is not."""
    with Stage("echo", draining=draining) as stage:
        with stage.inject(Fault("epoll_ctl", f"error={error}", ONCE)):
            with stage.graced.connect() as new:
                assert _rest(new) in {b"", FAREWELL}
            stage.bystander.echo(b"unharmed")
        with stage.graced.connect() as another:
            _is_received(another, draining)
        assert stage.graced.log.count("cannot accept clients") <= 1


def test_no_room_for_listener_that_comes_back() -> None:
    """It comes back later."""
    with Stage("echo", draining=False) as stage:
        first_and_third = "1..3+2"  # The client, and the listener that has left the set meanwhile.
        with stage.inject(Fault("epoll_ctl", "error=ENOSPC", first_and_third)) as injection:
            with stage.graced.connect() as new:
                assert _rest(new) == b""
            stage.graced.log.wait_for("<6>accepting clients again")
            assert len(injection.hits) == 2
        with stage.graced.connect() as another:
            another.echo(b"hello")
        assert stage.graced.log.count("cannot accept clients") == 1


@pytest.mark.parametrize("error", ON_THE_LOG)
def test_log_that_cannot_be_written(error: str, draining: bool) -> None:
    with Stage("echo", draining=draining) as stage:
        graced = stage.graced
        pipe = os.readlink(f"/proc/{graced.pid}/fd/2")
        with stage.inject(Fault("write", f"error={error}", ONCE, pipe)) as injection:
            with graced.connect() as one:
                _is_received(one, draining)
            _await_hit(graced, injection)
        if error in {"EINTR", "EAGAIN"}:
            assert not graced.log.count("dropped")
        else:
            graced.log.wait_for("<4>dropped 1 log record ")


def _await_hit(graced: Graced, injection: Injection) -> None:
    """Until the record after the one that was hit has come."""
    graced.log.wait_for("closing connection from|dropped")
    assert len(injection.hits) == 1


@pytest.mark.parametrize("error", ["EAGAIN", "ENOMEM"])
def test_no_thread_for_client(error: str) -> None:
    """It waits until there is one."""
    with Stage("echo-threaded", draining=False) as stage, ExitStack() as entered:
        with stage.inject(Fault(FORKS, f"error={error}", ONCE)):
            unlucky = entered.enter_context(stage.graced.connect())
            unlucky.send(b"patience")
            another = entered.enter_context(stage.graced.connect())
            another.echo(b"lucky")
        assert unlucky.recv_exactly(8) == b"patience"


@pytest.mark.parametrize("error", ["EAGAIN", "ENOMEM"])
def test_no_thread_for_only_client(error: str) -> None:
    """It waits until a thread can be started, and is tried again without any event."""
    with Graced("--handler", "echo-threaded") as graced:
        fault = Fault(FORKS, f"error={error}", ONCE)
        with Injection(graced.pid, fault), graced.connect() as new:
            new.echo(b"patience")
        assert graced.log.count("no thread for a handler .*, its client waits") == 1
        assert graced.stop() == 0


def test_client_that_waits_in_vain_for_a_thread() -> None:
    """It is told at a stop, and answered when a thread can be started."""
    with Graced("--handler", "echo-threaded", "--grace", "30") as graced, graced.served() as other:
        other.echo(b"hello")
        with graced.connect() as new:
            with Injection(graced.pid, Fault(FORKS, "error=EAGAIN")):
                new.send(b"hello")
                graced.log.wait_for("no thread for a handler .*, its client waits")
                graced.signal(SIGTERM)
                new.expect_farewell_alone()
            assert new.recv_exactly(5) == b"hello"
        other.close()
        assert graced.wait() == 0
        assert graced.stopped[1:] == (2, 0)


@pytest.mark.parametrize("error", ["ECONNRESET", "EPIPE", "EAGAIN", "EINTR", "ENOBUFS"])
def test_failed_send_of_farewell(error: str) -> None:
    with Graced("--grace", "30") as graced, ExitStack() as entered:
        clients = [entered.enter_context(graced.served()) for _ in range(5)]
        with Injection(graced.pid, Fault("sendto", f"error={error}", ONCE)):
            graced.signal(SIGTERM)
            heard = [_next(client) for client in clients]
        lost = 0 if error in {"EAGAIN", "EINTR"} else 1
        assert heard.count(FAREWELL) == len(clients) - lost, heard
        for client in clients:
            client.close()
        assert graced.wait() == 0


def _next(client: Client) -> bytes:
    try:
        return client.recv()
    except ConnectionResetError:
        return b""


def test_client_that_departs_before_it_is_turned_away() -> None:
    with Stage("echo", draining=True) as stage:
        fault = Fault("shutdown", "error=ENOTCONN", ONCE)
        with stage.inject(fault), stage.graced.connect() as new:
            assert _rest(new) in {b"", FAREWELL}


@pytest.mark.parametrize("fault", FATAL, ids=str)
def test_impossible_error_ends_daemon(fault: Fault, draining: bool, tmp_path: Path) -> None:
    """It ends the server at once, with status 1 and a traceback in the log."""
    pid_file = tmp_path / "graced.pid"
    with ExitStack() as entered:
        graced = Graced("--pid-file", str(pid_file), "--grace", "120")
        graced.tracebacks = True
        entered.enter_context(graced)
        client = entered.enter_context(graced.served())
        if draining:
            graced.signal(SIGTERM)
            client.expect_farewell_alone()
        with Injection(graced.pid, fault):
            # Something for everybody to do; by themselves they make no system call.
            with suppress(OSError):
                graced.signal(SIGUSR1)
                entered.enter_context(graced.connect())
            graced.log.wait_for("failed: OSError")
            assert graced.wait() == 1
        assert graced.log.count("Traceback") == 1
        assert not pid_file.exists()
        assert _rest(client) == b""


@pytest.mark.parametrize("error", ["EROFS", "EACCES", "EBUSY"])
def test_pidfile_that_cannot_be_removed(error: str, tmp_path: Path) -> None:
    pid_file = tmp_path / "graced.pid"
    with Traced(Fault("unlink", f"error={error}"), "--pid-file", str(pid_file)) as graced:
        graced.serving()
        assert graced.stop() == 0
        assert graced.hits
        assert "stopped after" in graced.log.lines[-1]
    # No process holds it: the next start is not kept from it.
    with Graced("--pid-file", str(pid_file)) as graced:
        assert graced.stop() == 0
    assert not pid_file.exists()
