"""The daemon waits until the service manager is its parent, whatever pidfd_open(2) says."""

import errno
import os
import signal

import pytest

from graced.process import daemonize


@pytest.fixture
def leader(monkeypatch: pytest.MonkeyPatch) -> int:
    """A session leader that has ended and has been reaped."""
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    monkeypatch.setattr(os, "getsid", lambda _pid: pid)
    return pid


@pytest.mark.parametrize("number", [errno.ESRCH, errno.EINVAL, errno.ENOSYS, errno.EPERM])
def test_leader_without_a_pidfd_is_looked_for_again(
    monkeypatch: pytest.MonkeyPatch, leader: int, number: int
) -> None:
    parents = [leader, leader, 1]
    monkeypatch.setattr(os, "getppid", lambda: parents.pop(0))

    def refuse(pid: int) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "pidfd_open", refuse)
    daemonize._wait_for_adoption()
    assert not parents


def test_reaped_leader_is_not_waited_for(monkeypatch: pytest.MonkeyPatch, leader: int) -> None:
    asked: list[int] = []
    monkeypatch.setattr(os, "pidfd_open", asked.append)
    daemonize._wait_for_adoption()
    assert os.getppid() != leader
    assert not asked


def test_living_leader_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    leader = os.fork()
    if leader == 0:
        os.close(writing)
        os.read(reading, 1)
        os._exit(0)
    os.close(reading)
    monkeypatch.setattr(os, "getsid", lambda _pid: leader)
    looks: list[int] = []

    def parent() -> int:
        looks.append(leader)
        if len(looks) == 1:
            os.close(writing)
            return leader
        # The end that was waited for: there is an exit status by now.
        assert os.waitid(os.P_PID, leader, os.WEXITED | os.WNOHANG) is not None
        return 1

    monkeypatch.setattr(os, "getppid", parent)
    try:
        daemonize._wait_for_adoption()
    finally:
        if len(looks) < 2:
            os.kill(leader, signal.SIGKILL)
            os.waitpid(leader, 0)
