"""A listener of the last process is used again only if a new one would be the same."""

from __future__ import annotations

import ctypes
import os
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from graced.errors import ListenError
from graced.log import events
from graced.sockets import binding
from graced.sockets.accepted import KeepAlive
from graced.sockets.address import Address
from graced.sockets.inherited_listeners import InheritedListeners
from graced.sockets.listener import Listener
from support import Client

Change = Callable[[Path], None]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "socket"


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0o077)
    yield
    os.umask(before)


@pytest.fixture
def old(path: Path, umask: None) -> Iterator[socket.socket]:
    """The listener of the last process."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.setblocking(False)
        sock.bind(str(path))
        sock.listen()
        # As after a bind(2) of graced, which notes the inode.
        Listener(sock)
        yield sock


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    reasons: list[str] = []
    monkeypatch.setattr(
        events, "LISTENER_NOT_INHERITED", lambda *, reason, **_: reasons.append(reason)
    )
    return reasons


def listen(stack: ExitStack, path: Path, inherited: InheritedListeners) -> Listener:
    (found,) = binding.bind([Address.parse(f"unix:{path}")], 10, inherited)
    found.own_path()
    stack.callback(found.close)
    return found


def test_same_listener_is_used_again(old: socket.socket, path: Path, said: list[str]) -> None:
    with ExitStack() as stack:
        assert listen(stack, path, InheritedListeners([old])).sock is old
    assert said == []


def widen(_path: Path) -> None:
    """UMask= of the unit lets everybody connect now."""
    os.umask(0)


def narrow(path: Path) -> None:
    """UMask= of the unit lets nobody connect any more; the last process let everybody."""
    path.chmod(0o777)


def leave_dead_socket(path: Path) -> None:
    path.unlink()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))


def remove(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (widen, "its path has mode 0700, and would have 0777 now"),
        (narrow, "its path has mode 0777, and would have 0700 now"),
        (leave_dead_socket, "its path leads to something else"),
        (remove, "its path: No such file or directory"),
    ],
)
def test_different_listener_is_bound_afresh(
    old: socket.socket, path: Path, said: list[str], change: Change, reason: str
) -> None:
    with ExitStack() as stack:
        queued = None
        if change in (widen, narrow):
            queued = stack.enter_context(Client.connect(f"unix:{path}"))
        change(path)
        inherited = InheritedListeners([old])
        found = listen(stack, path, inherited)
        assert said == [reason]
        umask = os.umask(0o077)
        assert path.stat().st_mode & 0o777 == 0o777 & ~umask
        # A new client reaches the new listener; the queue of the old one is not forgotten.
        with Client.connect(f"unix:{path}"), found.accept()[0]:
            pass
        with ExitStack() as connections:
            retired = [connections.enter_context(sock) for sock in inherited.retire()]
            assert len(retired) == (queued is not None)


def bind_beside(path: Path, stack: ExitStack) -> str:
    """Another program listens beside the path; return where."""
    other = stack.enter_context(socket.socket(socket.AF_UNIX))
    other.bind(found := f"{path}.other")
    other.listen()
    return found


def replace(path: Path, stack: ExitStack) -> None:
    """As programs do that never leave their path without a socket."""
    os.rename(bind_beside(path, stack), path)


def take(path: Path, stack: ExitStack) -> None:
    path.unlink()
    other = stack.enter_context(socket.socket(socket.AF_UNIX))
    other.bind(str(path))
    other.listen()


def link(path: Path, stack: ExitStack) -> None:
    path.unlink()
    path.symlink_to(bind_beside(path, stack))


@pytest.mark.parametrize("change", [replace, take, link])
def test_path_that_leads_to_another_program_is_not_ours(
    old: socket.socket, path: Path, said: list[str], change: Callable[[Path, ExitStack], None]
) -> None:
    """A socket of the same user, with the same mode, that somebody listens at."""
    with ExitStack() as stack:
        change(path, stack)
        with pytest.raises(ListenError, match="Address already in use"):
            listen(stack, path, InheritedListeners([old]))
        # It is not in its way, either.
        with Client.connect(f"unix:{path}"):
            pass
    assert said == ["its path leads to something else"]


def test_path_of_a_listener_of_an_older_version_is_taken_for_ours(
    path: Path, umask: None, said: list[str]
) -> None:
    with socket.socket(socket.AF_UNIX) as old, ExitStack() as stack:
        old.bind(str(path))
        old.listen()
        assert listen(stack, path, InheritedListeners([old])).sock is old
    assert said == []


def test_path_of_another_user_is_not_ours(
    old: socket.socket, path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`User=` of the unit has changed."""
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with ExitStack() as stack:
        assert listen(stack, path, InheritedListeners([old])).sock is not old
    (reason,) = said
    assert reason.startswith("its path belongs to user ")


def test_plain_file_at_the_path_is_in_the_way(
    old: socket.socket, path: Path, said: list[str]
) -> None:
    path.unlink()
    path.write_text("precious")
    with ExitStack() as stack, pytest.raises(ListenError, match="Address already in use"):
        listen(stack, path, InheritedListeners([old]))
    assert path.read_text() == "precious"


def test_listener_of_another_network_namespace_is_not_ours(said: list[str]) -> None:
    """`PrivateNetwork=` of the unit has changed: nobody would reach the listener."""
    theirs = _listener_in_new_namespace()
    with ExitStack() as stack:
        stack.callback(theirs.close)
        port = theirs.getsockname()[1]
        (found,) = binding.bind(
            [Address.parse(f"127.0.0.1:{port}")], 10, InheritedListeners([theirs])
        )
        stack.callback(found.close)
        assert found.sock is not theirs
        with Client.connect(found.name), found.accept()[0]:
            pass
    assert said == ["it is in another network namespace"]


def _listener_in_new_namespace() -> socket.socket:
    """A listener made by a child with a network of its own, passed here."""
    ours, childs = socket.socketpair(socket.AF_UNIX)
    with ours, childs:
        pid = os.fork()
        if not pid:
            status = 1
            try:
                _unshare()
                with socket.socket() as sock:
                    sock.bind(("127.0.0.1", 0))
                    sock.listen()
                    socket.send_fds(childs, [b"x"], [sock.fileno()])
                status = 0
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        _, (fd,), _, _ = socket.recv_fds(ours, 1, 1)
        sock = socket.socket(fileno=fd)
        sock.setblocking(False)
        return sock


def _unshare() -> None:
    """unshare(2) with CLONE_NEWUSER | CLONE_NEWNET: no privilege is needed."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(0x10000000 | 0x40000000):
        raise OSError(ctypes.get_errno(), "unshare(2)")


def test_listener_is_used_again_by_another_name_of_its_path(
    old: socket.socket, path: Path, said: list[str]
) -> None:
    """/var/run is /run: the configuration may say one and the other."""
    link = path.parent / "link"
    link.symlink_to(path.parent)
    with ExitStack() as stack:
        found = listen(stack, link / path.name, InheritedListeners([old]))
        assert found.inherited
        assert found.sock is old


def test_listener_gets_backlog_and_keepalive_of_this_configuration() -> None:
    backlog = struct.Struct("=28x I")
    with socket.create_server(("127.0.0.1", 0), backlog=7) as old:
        old.setblocking(False)
        address = Address("127.0.0.1", old.getsockname()[1])
        keepalive = KeepAlive(idle=11, user_timeout=13)
        (found,) = binding.bind([address], 99, InheritedListeners([old]), keepalive)
        assert found.sock is old
        info = old.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, backlog.size)
        assert backlog.unpack(info) == (99,)
        assert old.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 11
        assert old.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 13000


@pytest.mark.parametrize("mode", [0o700, 0o755, 0o770], ids=oct)
def test_mode_of_the_directory_is_no_business_of_the_listener(
    path: Path, old: socket.socket, said: list[str], mode: int
) -> None:
    """`RuntimeDirectoryMode=` has changed: systemd sees to the directory."""
    path.parent.chmod(mode)
    with ExitStack() as stack:
        assert listen(stack, path, InheritedListeners([old])).sock is old
    assert said == []


def test_path_that_is_a_link_to_the_socket_is_ours(
    path: Path, old: socket.socket, said: list[str]
) -> None:
    """The administrator has moved the socket to another file system, and left a link."""
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))
    with ExitStack() as stack:
        assert listen(stack, path, InheritedListeners([old])).sock is old
    assert said == []


def test_second_name_of_the_socket_changes_nothing(
    path: Path, old: socket.socket, said: list[str]
) -> None:
    """A backup has made a hard link, and the path is restored from it."""
    os.link(path, path.with_name("backup"))
    path.unlink()
    os.link(path.with_name("backup"), path)
    with ExitStack() as stack:
        assert listen(stack, path, InheritedListeners([old])).sock is old
    assert said == []


def test_directory_that_was_put_over_the_path_is_looked_into(
    tmp_path: Path, umask: None, said: list[str]
) -> None:
    """As a bind mount over the directory does: nobody reaches the old socket."""
    directory = tmp_path / "run"
    directory.mkdir()
    with socket.socket(socket.AF_UNIX) as old, ExitStack() as stack:
        old.bind(str(directory / "socket"))
        old.listen()
        directory.rename(tmp_path / "below")
        directory.mkdir()
        assert listen(stack, directory / "socket", InheritedListeners([old])).sock is not old
        with Client.connect(f"unix:{directory}/socket"):
            pass
    assert said == ["its path: No such file or directory"]


@pytest.mark.parametrize("changed", [False, True], ids=["same group", "another group"])
def test_group_of_the_directory_is_that_of_the_socket(
    tmp_path: Path, umask: None, said: list[str], changed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The directory has the set-group-id bit, so that a group may reach what is in it."""
    directory = tmp_path / "run"
    directory.mkdir()
    directory.chmod(0o2750)
    with socket.socket(socket.AF_UNIX) as old, ExitStack() as stack:
        old.bind(str(directory / "socket"))
        old.listen()
        # The service is of another group now; without the bit, so would be a new socket.
        own = os.getegid()
        monkeypatch.setattr(os, "getegid", lambda: own + 1)
        if changed:
            directory.chmod(0o0750)
        found = listen(stack, directory / "socket", InheritedListeners([old]))
        assert (found.sock is old) is not changed
    assert len(said) == changed
