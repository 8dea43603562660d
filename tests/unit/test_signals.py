"""Signals as messages."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from graced.signals import (
    END,
    HANDOVER,
    IMPATIENT,
    STATUS,
    STOP,
    WATCHED,
    SignalInbox,
    expect_service_manager,
)
from support import PATIENCE, environment


@pytest.fixture(autouse=True)
def _unchanged() -> Iterator[None]:
    """Check that a test leaves signal handlers and mask unchanged."""
    handlers = {signum: signal.getsignal(signum) for signum in WATCHED}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    yield
    assert {signum: signal.getsignal(signum) for signum in WATCHED} == handlers
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == mask


def readable(inbox: SignalInbox, seconds: float) -> bool:
    poll = select.poll()
    poll.register(inbox, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def test_signals_are_read_in_order() -> None:
    sent = [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGTERM, signal.SIGQUIT]
    with SignalInbox() as inbox:
        assert inbox.take() == []
        for signum in sent:
            signal.raise_signal(signum)
        assert inbox.take() == sent
        assert inbox.take() == []


def test_inbox_is_readable_when_signal_has_arrived() -> None:
    with SignalInbox() as inbox:
        assert not readable(inbox, 0)
        os.kill(os.getpid(), signal.SIGTERM)
        assert readable(inbox, PATIENCE)
        assert inbox.take() == [signal.SIGTERM]
        assert not readable(inbox, 0)


def test_signal_that_a_thread_has_put_into_the_inbox_is_read() -> None:
    with SignalInbox() as inbox:
        thread = threading.Thread(target=inbox.put, args=(signal.SIGTERM,))
        thread.start()
        assert readable(inbox, PATIENCE)
        assert inbox.take() == [signal.SIGTERM]
        thread.join()


def test_signal_that_comes_while_many_are_unread_is_not_lost() -> None:
    with SignalInbox() as inbox:
        size = fcntl.fcntl(inbox.fileno(), fcntl.F_GETPIPE_SZ)
        for _ in range(size + 1):
            inbox.put(signal.SIGUSR1)
        inbox.put(signal.SIGTERM)
        taken = []
        while readable(inbox, 0):
            taken += inbox.take()
        assert signal.SIGTERM in taken
        assert taken.count(signal.SIGUSR1) == size + 1


def test_signal_that_comes_after_the_end_of_the_inbox_is_left_alone() -> None:
    with SignalInbox() as inbox:
        write = inbox._write
    reused, other = os.pipe()
    try:
        os.dup2(other, write)
        os.set_blocking(reused, False)
        inbox.put(signal.SIGTERM)
        with pytest.raises(BlockingIOError):
            os.read(reused, 1)
    finally:
        for fd in {reused, other, write}:
            os.close(fd)


@pytest.mark.parametrize("signum", WATCHED, ids=lambda signum: signum.name)
def test_watched_signal_neither_raises_nor_kills(signum: signal.Signals) -> None:
    with SignalInbox() as inbox:
        signal.raise_signal(signum)
        assert inbox.take() == [signum]


def test_blocked_signal_is_delivered_on_entry() -> None:
    found = signal.getsignal(signal.SIGTERM)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    try:
        signal.raise_signal(signal.SIGTERM)
        with SignalInbox() as inbox:
            assert readable(inbox, PATIENCE)
            assert inbox.take() == [signal.SIGTERM]
            assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
        # The mask is restored.
        assert signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    finally:
        signal.signal(signal.SIGTERM, found)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])


def test_handlers_and_wakeup_descriptor_are_restored() -> None:
    def mine(_signum: int, _frame: object) -> None:
        raise AssertionError

    read, write = os.pipe2(os.O_NONBLOCK)
    handler = signal.signal(signal.SIGTERM, mine)
    wakeup = signal.set_wakeup_fd(write)
    try:
        with SignalInbox():
            signal.raise_signal(signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) is mine
        assert signal.set_wakeup_fd(-1) == write
    finally:
        signal.set_wakeup_fd(wakeup)
        signal.signal(signal.SIGTERM, handler)
        os.close(read)
        os.close(write)


def test_only_watched_signals_are_caught() -> None:
    handler = signal.getsignal(signal.SIGUSR1)
    with SignalInbox([signal.SIGTERM]) as inbox:
        assert signal.getsignal(signal.SIGUSR1) is handler
        signal.raise_signal(signal.SIGTERM)
        assert inbox.take() == [signal.SIGTERM]


@pytest.mark.parametrize("signum", WATCHED, ids=lambda signum: signum.name)
def test_signal_that_the_caller_ignores_stays_ignored(signum: signal.Signals) -> None:
    found = signal.signal(signum, signal.SIG_IGN)
    try:
        with SignalInbox() as inbox:
            signal.raise_signal(signum)
            assert inbox.take() == []
            other = next(each for each in WATCHED if each is not signum)
            signal.raise_signal(other)
            assert inbox.take() == [other]
            assert signal.getsignal(signum) is signal.SIG_IGN
        assert signal.getsignal(signum) is signal.SIG_IGN
    finally:
        signal.signal(signum, found)


@pytest.mark.parametrize(
    ("environ", "caught"),
    [
        ({}, False),
        ({"NOTIFY_SOCKET": "/run/notify"}, True),
        ({"INVOCATION_ID": "1"}, True),
        ({"INVOCATION_ID": "1", "SYSTEMD_EXEC_PID": "7"}, True),
        ({"INVOCATION_ID": "1", "SYSTEMD_EXEC_PID": "8"}, False),
        ({"INVOCATION_ID": "1", "SYSTEMD_EXEC_PID": "8", "NOTIFY_SOCKET": "@x"}, True),
        ({"SYSTEMD_EXEC_PID": "7"}, False),
    ],
)
def test_service_manager_means_nothing_by_ignored_signals(
    environ: dict[str, str], caught: bool
) -> None:
    """A terminal that is a service itself passes on its INVOCATION_ID: pid 8 is not ours."""
    found = {signum: signal.getsignal(signum) for signum in WATCHED}
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, WATCHED)
    try:
        expect_service_manager(environ, 7)
        with SignalInbox() as inbox:
            signal.raise_signal(signal.SIGHUP)
            assert inbox.take() == ([signal.SIGHUP] if caught else [])
    finally:
        for signum, handler in found.items():
            signal.signal(signum, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def test_other_thread_cannot_catch_signals() -> None:
    failures: list[str] = []

    def enter() -> None:
        inbox = SignalInbox()
        try:
            inbox.__enter__()
        except ValueError as error:
            failures.append(str(error))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert "main thread" in failures[0]


def test_other_signals_are_not_reported() -> None:
    heard = []
    handler = signal.signal(signal.SIGALRM, lambda signum, _: heard.append(signum))
    try:
        with SignalInbox() as inbox:
            signal.raise_signal(signal.SIGALRM)
            signal.raise_signal(signal.SIGTERM)
            assert inbox.take() == [signal.SIGTERM]
            assert heard == [signal.SIGALRM]
    finally:
        signal.signal(signal.SIGALRM, handler)


def test_full_inbox_does_not_block() -> None:
    with SignalInbox() as inbox:
        fcntl.fcntl(inbox.fileno(), fcntl.F_SETPIPE_SZ, 4096)
        for _ in range(5000):
            signal.raise_signal(signal.SIGTERM)
        while taken := inbox.take():
            assert set(taken) == {signal.SIGTERM}


def test_signal_in_another_thread_is_read() -> None:
    with SignalInbox() as inbox:
        thread = threading.Thread(target=lambda: signal.raise_signal(signal.SIGTERM))
        thread.start()
        thread.join()
        assert readable(inbox, PATIENCE)
        assert inbox.take() == [signal.SIGTERM]


def test_child_dies_of_sigterm_and_inbox_stays_empty() -> None:
    """A handler may start programs, and SIGTERM must end a program as usual."""
    with SignalInbox() as inbox:
        child = subprocess.Popen(
            [sys.executable, "-c", "import signal; signal.raise_signal(signal.SIGTERM)"]
        )
        assert child.wait(PATIENCE) == -signal.SIGTERM
        assert inbox.take() == []


def test_groups_of_signals() -> None:
    assert set(IMPATIENT) < set(STOP)
    assert STATUS not in END
    assert set(END) == {*STOP, HANDOVER}
    assert HANDOVER not in STOP
    assert set(WATCHED) == {*END, STATUS}


def test_main_module_blocks_all_watched_signals() -> None:
    """`graced.__main__` lists the signals itself, since nothing is imported before."""
    code = """if True:
        import graced.__main__, signal
        print(*sorted(map(int, signal.pthread_sigmask(signal.SIG_BLOCK, []))))
    """
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [str(int(signum)) for signum in sorted(WATCHED)]
