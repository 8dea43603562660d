"""System calls that a container, a seccomp filter or an old kernel forbids, for good.

Either no client notices, or the start is refused in one line, or the part that needs the call is
left out and a line in the log says so.  docs/reliability.md has the table.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from signal import SIGTERM, SIGUSR2
from typing import Any, NamedTuple

import pytest

from graced.handover import fdstore
from robustness.lifetime import Lifetime
from robustness.scale import ALL
from support import PASS, Client, Daemon, FdStore, Graced, run_graced
from support.forbid import Forbidden, code_of
from support.handover import handed_over
from support.process import LEFT_TO_THE_KERNEL

SOL_SOCKET = 1
SOL_TCP = 6
TCP_INFO = 11
SO_REUSEPORT = 15
IPV6_V6ONLY = 26
SO_DETACH_FILTER = 27
SO_MARK = 36
SO_PEEK_OFF = 42
SO_LOCK_FILTER = 44
SO_COOKIE = 57
SO_BINDTOIFINDEX = 62
SO_NETNS_COOKIE = 71
LEVEL, OPTION = 1, 2
SOCK_STREAM = 1
SOCK_SEQPACKET = 5
FIONBIO = 0x5421

UNNOTICED = [
    *(Forbidden("pidfd_open", error) for error in ("EPERM", "ENOSYS", "EINVAL", "ESRCH")),
    *(Forbidden("close_range", error) for error in ("EPERM", "ENOSYS")),
    *(Forbidden("getrandom", error) for error in ("EPERM", "ENOSYS")),
    *(Forbidden("rseq", error) for error in ("EPERM", "ENOSYS")),
    Forbidden("clone3", "ENOSYS"),
    # Older container programs answer EPERM for calls that they do not know.
    *(
        Forbidden(call, error)
        for call in ("statx", "faccessat2", "openat2", "sched_getaffinity", "prctl", "getcwd")
        for error in ("EPERM", "ENOSYS")
    ),
    Forbidden("accept4", "ENOSYS"),
    Forbidden("madvise", "EPERM"),
    Forbidden("sysinfo", "EPERM"),
    *(Forbidden("setsockopt", error, OPTION, SO_PEEK_OFF) for error in ("EPERM", "ENOPROTOOPT")),
    Forbidden("getsockopt", "ENOPROTOOPT", OPTION, TCP_INFO),
    *(
        Forbidden("getsockopt", error, OPTION, option)
        for option in (
            *(SO_REUSEPORT, IPV6_V6ONLY, SO_BINDTOIFINDEX, SO_NETNS_COOKIE),
            *(SO_MARK, SO_LOCK_FILTER, SO_PEEK_OFF),
        )
        for error in ("EPERM", "ENOPROTOOPT")
    ),
    Forbidden("setsockopt", "EPERM", OPTION, SO_DETACH_FILTER),
]


def together() -> list[tuple[Forbidden, ...]]:
    """Groups with each of these once, and in no group the same call with two errors."""
    groups: list[dict[str, Forbidden]] = []
    for forbidden in UNNOTICED:
        call = str(forbidden).removesuffix(forbidden.error)
        group = next((each for each in groups if call not in each), None)
        if group is None:
            groups.append(group := {})
        group[call] = forbidden
    return [tuple(group.values()) for group in groups]


GROUPS = [(each,) for each in UNNOTICED] if ALL else together()


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: "+".join(map(str, group[:2])))
@pytest.mark.parametrize("handler", ["echo", "echo-threaded"])
def test_life_without_call(group: tuple[Forbidden, ...], handler: str, tmp_path: Path) -> None:
    """Without many calls at once; with GRACED_ALL_TESTS=1 without each of them alone."""
    life = Lifetime(handler, tmp_path, before=code_of(*group))
    life.run()
    for daemon in life.daemons:
        assert not daemon.log.count("^<[0-4]>"), str(daemon.log)


def test_echo_needs_no_getpeername(tmp_path: Path) -> None:
    Lifetime("echo", tmp_path, before=Forbidden("getpeername", "EPERM").code).run()


class Procless(Daemon):
    """A daemon where /proc is not mounted."""

    def __init__(self, *options: str, **more: Any) -> None:
        super().__init__(*options, **more)
        mount = 'mount -t tmpfs none /proc && exec "$@"'
        namespace = ["unshare", "--user", "--map-root-user", "--mount"]
        self.command = [*namespace, "sh", "-c", mount, "sh", *self.command]


@pytest.mark.parametrize("handler", ["echo", "echo-threaded"])
def test_life_without_proc(handler: str, tmp_path: Path) -> None:
    life = Lifetime(handler, tmp_path, Procless)
    life.run()
    for daemon in life.daemons:
        assert not daemon.log.count("^<[0-4]>"), str(daemon.log)


class Refusal(NamedTuple):
    """A call without which there is no start, and what is said."""

    forbidden: Forbidden
    status: int
    reason: str

    def __str__(self) -> str:
        return str(self.forbidden)


NO_LOOP = "cannot wait for clients, epoll(7) or eventfd(2): "
NO_DAEMON = "cannot become a daemon: "
NO_OWNER = f"{NO_DAEMON}Unable to change process owner ([Errno 1] Operation not permitted)"
DENIED = "Operation not permitted"
ERRNO = f"[Errno 1] {DENIED}"
NO_CALL = "Function not implemented"
NOT_FINAL = {69, 73}
"""Statuses after which the next start waits for the address or the pidfile."""
REFUSALS = [
    Refusal(Forbidden("epoll_create1", "EPERM"), 1, NO_LOOP + DENIED),
    Refusal(Forbidden("epoll_create1", "ENOSYS"), 1, NO_LOOP + NO_CALL),
    Refusal(Forbidden("epoll_ctl", "EPERM"), 1, NO_LOOP + DENIED),
    Refusal(Forbidden("eventfd2", "EPERM"), 1, NO_LOOP + DENIED),
    Refusal(Forbidden("eventfd2", "ENOSYS"), 1, NO_LOOP + NO_CALL),
    Refusal(Forbidden("pipe2", "EPERM"), 1, f"cannot catch signals, pipe(2): {DENIED}"),
    Refusal(Forbidden("clone", "EPERM"), 1, f"cannot fork: {DENIED}"),
    Refusal(Forbidden("clone3", "EPERM"), 1, "cannot start a thread: can't start new thread"),
    Refusal(Forbidden("socketpair", "EPERM", 1, SOCK_SEQPACKET, 0xF), 1, NO_DAEMON + ERRNO),
    Refusal(Forbidden("setsid", "EPERM"), 1, NO_DAEMON + ERRNO),
    Refusal(Forbidden("getsid", "EPERM"), 1, NO_DAEMON + ERRNO),
    Refusal(Forbidden("dup2", "EPERM"), 1, NO_DAEMON + ERRNO),
    Refusal(Forbidden("setuid", "EPERM"), 1, NO_OWNER),
    Refusal(Forbidden("setgid", "EPERM"), 1, NO_OWNER),
    Refusal(Forbidden("prlimit64", "EPERM"), 1, NO_DAEMON + ERRNO),
    Refusal(Forbidden("flock", "EPERM"), 73, f"cannot write pidfile {{pid}}: {DENIED}"),
    Refusal(Forbidden("flock", "ENOLCK"), 73, "cannot write pidfile {pid}: No locks available"),
    Refusal(Forbidden("ftruncate", "EPERM"), 73, f"cannot write pidfile {{pid}}: {DENIED}"),
    Refusal(Forbidden("pwrite64", "EPERM"), 73, f"cannot write pidfile {{pid}}: {DENIED}"),
    Refusal(Forbidden("ioctl", "EPERM", 1, FIONBIO), 69, f"cannot listen on {{address}}: {DENIED}"),
    Refusal(Forbidden("listen", "EPERM"), 69, f"cannot listen on {{address}}: {DENIED}"),
    Refusal(Forbidden("getsockname", "EPERM"), 69, f"cannot listen on {{address}}: {DENIED}"),
    Refusal(Forbidden("bind", "EPERM"), 69, f"cannot listen on {{address}}: {DENIED}"),
]


@pytest.mark.parametrize("refusal", REFUSALS, ids=str)
def test_start_is_refused_and_leaves_nothing_behind(refusal: Refusal, tmp_path: Path) -> None:
    """Neither a file nor a traceback; in the store at most the mark that the next start goes on."""
    pid_file, address = tmp_path / "pid", f"unix:{tmp_path}/socket"
    store = FdStore()
    with store:
        run = run_graced(
            *("--daemon", "--config", "/dev/null", "--pid-file", str(pid_file)),
            *("--listen", address),
            env={**store.environment, **LEFT_TO_THE_KERNEL},
            before=refusal.forbidden.code,
        )
        assert store.names == ([fdstore.REFUSED] if refusal.status in NOT_FINAL else [])
    *before, last = run.stderr.splitlines()
    assert last == f"graced: {refusal.reason.format(pid=pid_file, address=address)}"
    # The same call may be needed for it too.
    assert all(line.startswith("<4>cannot talk to the service manager: ") for line in before)
    assert run.returncode == refusal.status
    assert list(tmp_path.iterdir()) == []


SO_BINDTOIFINDEX = 62
SO_NETNS_COOKIE = 71


def test_listener_that_cannot_refuse() -> None:
    """The log says it once for the listener; the clients are told as always."""
    before = Forbidden("setsockopt", "EPERM", OPTION, SO_BINDTOIFINDEX).code
    with Graced(before=before) as graced, graced.served() as client:
        graced.signal(SIGTERM)
        client.expect_farewell_alone()
        client.close()
        assert graced.wait() == 0
        assert graced.log.count("^<4>.*Operation not permitted") == 1


# What the handover needs.


def _brief(value: object) -> str:
    """For the name of a test."""
    return str(getattr(value, "__name__", value)).strip("_")[:30]


NO_HANDOVER = [
    (Forbidden("memfd_create", "EPERM"), 0, "its check cannot be started: Operation not"),
    (Forbidden("memfd_create", "ENOSYS"), 0, "its check cannot be started: Function not"),
    (Forbidden("getsockopt", "ENOPROTOOPT", OPTION, SO_COOKIE), 79, "handed over: Protocol not"),
    (Forbidden("sendmsg", "EPERM"), 79, "to the service manager is lost.*: Operation not"),
    (Forbidden("sendmsg", "ETOOMANYREFS"), 79, "to the service manager is lost.*: Too many ref"),
]


@pytest.mark.parametrize(("forbidden", "status", "reason"), NO_HANDOVER, ids=_brief)
@pytest.mark.parametrize("handler", ["echo", "echo-threaded"])
def test_clients_that_cannot_be_handed_over_are_told(
    forbidden: Forbidden, status: int, reason: str, handler: str
) -> None:
    """A line says why, once; the service manager hears the rest as before."""
    store = FdStore()
    with (
        store,
        Graced("--handler", handler, env=store.environment, before=forbidden.code) as graced,
        graced.served() as client,
    ):
        client.echo(b"hello")
        graced.signal(SIGUSR2)
        client.expect_farewell_alone()
        client.close()
        assert graced.wait() == status
        assert graced.log.count(f"^<4>.*{reason}") == 1, str(graced.log)
        store.wait_for("STOPPING=1")


@pytest.mark.parametrize("handler", ["echo", "echo-threaded"])
def test_service_without_room_for_bundle(handler: str) -> None:
    """Neither for the handover nor for the copies that outlive a crash."""
    store = FdStore()
    before = Forbidden("socketpair", "EMFILE", 1, SOCK_STREAM, 0xF).code
    config = '[continuity]\nkeep = "always"'
    with (
        store,
        Graced("--handler", handler, config=config, env=store.environment, before=before) as graced,
        graced.served() as client,
    ):
        client.echo(b"hello")
        assert graced.log.count("^<4>a crash would end clients now, .*: Too many open") == 1
        graced.signal(SIGUSR2)
        client.expect_farewell_alone()
        graced.log.wait_for("^<4>.* cannot be handed over: Too many open")
        client.close()
        assert graced.wait() == 79


def test_service_without_limits() -> None:
    with Graced(before=Forbidden("prlimit64", "EPERM").code) as graced, graced.served() as client:
        client.echo(b"hello")
        client.close()
        assert graced.stop() == 0


def test_handlers_that_cannot_be_woken_are_told() -> None:
    store = FdStore()
    before = Forbidden("tgkill", "EPERM").code
    with (
        store,
        Graced("--handler", "echo-threaded", env=store.environment, before=before) as graced,
        graced.served() as client,
    ):
        client.echo(b"hello")
        graced.signal(SIGUSR2)
        client.expect_farewell_alone()
        client.close()
        assert graced.wait() == 79
        assert graced.log.count("^<4>handlers cannot be woken for the handover: Operation") == 1


def _told(client: Client) -> None:
    client.expect_farewell_alone()
    client.expect_end()


def _ended(client: Client) -> None:
    client.expect_end()


NOT_INHERITED: list[tuple[Forbidden, Callable[[Client], None]]] = [
    (Forbidden("getsockopt", "ENOPROTOOPT", OPTION, SO_COOKIE), _told),
    (Forbidden("lseek", "EPERM"), _told),
    # No process has them any more.
    (Forbidden("recvmsg", "EPERM"), _ended),
]


@pytest.mark.parametrize(("forbidden", "expect"), NOT_INHERITED, ids=_brief)
def test_clients_that_cannot_be_inherited(
    forbidden: Forbidden, expect: Callable[[Client], None]
) -> None:
    store = FdStore()
    with (
        store,
        handed_over(store) as (address, client),
        Daemon(
            listen=address,
            env=store.environment,
            before=PASS + forbidden.code,
            pass_fds=store.descriptors,
        ) as second,
    ):
        expect(client)
        second.log.wait_for("^<4>clients cannot be inherited and are turned away: ")
        with second.connect() as new:
            new.echo(b"hello")
        assert second.stop() == 0


# A start that fails between two that do not.

FAILING = [
    Forbidden("eventfd2", "ENOSYS"),
    Forbidden("clone", "EAGAIN"),
    Forbidden("setsid", "EPERM"),
    Forbidden("socketpair", "EMFILE", 1, SOCK_SEQPACKET, 0xF),
    Forbidden("epoll_create1", "EMFILE"),
    Forbidden("epoll_ctl", "ENOSPC"),
    Forbidden("pipe2", "ENFILE"),
    Forbidden("clone3", "EAGAIN"),
]


@pytest.mark.parametrize("forbidden", FAILING, ids=str)
def test_clients_and_queue_outlive_failed_start(forbidden: Forbidden, tmp_path: Path) -> None:
    """The store has what it had before; the next start goes on with all of it."""
    store = FdStore()
    with store, handed_over(store) as (address, client):
        kept = store.names
        run = run_graced(
            *("--daemon", "--config", "/dev/null", "--pid-file", str(tmp_path / "pid")),
            *("--listen", address),
            env={**store.environment, **LEFT_TO_THE_KERNEL},
            before=PASS + forbidden.code,
            pass_fds=store.descriptors,
        )
        assert run.returncode == 1, run
        assert len(run.stderr.splitlines()) == 1, run
        assert sorted(store.names) == sorted(kept)
        with Client.connect(address) as waiting:
            waiting.send(b"anybody?")
            with Daemon(
                listen=address, env=store.environment, before=PASS, pass_fds=store.descriptors
            ) as third:
                client.echo(b"still there")
                assert waiting.recv_exactly(8) == b"anybody?"
                third.signal(SIGTERM)
                client.expect_farewell_alone()
                client.close()
                waiting.expect_farewell_alone()
                waiting.close()
                assert third.wait() == 0
