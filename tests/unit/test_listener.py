"""Listening sockets: bound here or passed."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from graced import listener
from graced.address import Address
from graced.errors import ListenError
from graced.listener import Listener
from support import Client

Bind = Callable[..., list[Listener]]


@pytest.fixture
def bind() -> Iterator[Bind]:
    """Listens, until the end of the test."""
    with ExitStack() as stack:

        def bind(*texts: str, backlog: int = 100) -> list[Listener]:
            found = listener.bind([Address.parse(text) for text in texts], backlog)
            for each in found:
                stack.callback(each.close)
            return found

        yield bind


def port(text: str) -> str:
    return text.rpartition(":")[2]


def test_a_port_is_picked_and_named(bind: Bind) -> None:
    (found,) = bind("127.0.0.1:0")
    assert found.name == f"127.0.0.1:{found.sock.getsockname()[1]}"
    assert port(found.name) != "0"
    assert not found.passed


def test_everywhere_is_both_families_with_the_same_port(bind: Bind) -> None:
    four, six = bind("*:0")
    assert four.name == f"0.0.0.0:{port(four.name)}"
    assert six.name == f"[::]:{port(four.name)}"


def test_the_order_is_kept(bind: Bind, tmp_path: Path) -> None:
    found = bind("[::1]:0", f"unix:{tmp_path}/s", "127.0.0.1:0")
    assert [each.name.rpartition(":")[0] for each in found] == ["[::1]", "unix", "127.0.0.1"]


def test_accepted_sockets_do_not_delay_small_packets(bind: Bind) -> None:
    for found in bind("*:0"):
        with Client.connect(found.name):
            found.sock.setblocking(True)
            sock, address = found.accept()
            with sock:
                assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
                assert sock.getpeername() == address
                assert sock.family == found.sock.family


def test_nobody_there_is_no_reason_to_wait(bind: Bind) -> None:
    (found,) = bind("127.0.0.1:0")
    with pytest.raises(BlockingIOError):
        found.accept()


def test_one_that_fails_takes_the_others_with_it(bind: Bind, tmp_path: Path) -> None:
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(ListenError, match=r"cannot listen on 192\.0\.2\.1:0: Cannot assign"):
        bind("127.0.0.1:0", f"unix:{tmp_path}/socket", "192.0.2.1:0")
    assert set(os.listdir("/proc/self/fd")) == before
    assert not (tmp_path / "socket").exists()


def test_in_use(bind: Bind) -> None:
    (found,) = bind("127.0.0.1:0")
    with pytest.raises(ListenError, match=f"cannot listen on {found.name}: Address already in use"):
        bind(found.name)


def test_a_port_may_be_taken_in_one_family_only(bind: Bind) -> None:
    """The address is refused as a whole."""
    (found,) = bind("[::1]:0")
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(ListenError, match="Address already in use"):
        bind(f"*:{port(found.name)}")
    assert set(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("host", ["no.such.host.invalid", "näher.invalid", "x" * 300, "a..b"])
def test_a_name_that_is_none(bind: Bind, host: str) -> None:
    with pytest.raises(ListenError, match=r"^cannot listen on "):
        bind(f"{host}:7")


def test_a_path_goes_with_its_listener(bind: Bind, tmp_path: Path) -> None:
    (found,) = bind(f"unix:{tmp_path}/socket")
    found.close()
    assert not (tmp_path / "socket").exists()


def test_a_path_that_is_not_ours_any_more_stays(bind: Bind, tmp_path: Path) -> None:
    (found,) = bind(f"unix:{tmp_path}/socket")
    (tmp_path / "socket").unlink()
    (tmp_path / "socket").write_text("of somebody else")
    found.close()
    assert (tmp_path / "socket").read_text() == "of somebody else"


def test_a_path_that_has_gone_is_no_matter(bind: Bind, tmp_path: Path) -> None:
    (found,) = bind(f"unix:{tmp_path}/socket")
    (tmp_path / "socket").unlink()
    found.close()


def test_the_socket_of_a_dead_server_is_replaced(bind: Bind, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "socket"))
        dead.listen()
    (found,) = bind(f"unix:{tmp_path}/socket")
    with Client.connect(found.name):
        found.accept()[0].close()


@pytest.mark.parametrize("kind", ["live", "file", "link"])
def test_what_else_stands_there_is_not(bind: Bind, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as live:
        if kind == "live":
            live.bind(str(path))
            live.listen()
        elif kind == "file":
            path.write_text("precious")
        else:
            path.symlink_to(tmp_path / "elsewhere")
        before = path.lstat()
        with pytest.raises(ListenError, match="Address already in use"):
            bind(f"unix:{path}")
        assert path.lstat().st_ino == before.st_ino


def test_after_shut_nobody_comes_but_who_waits_is_served(bind: Bind, tmp_path: Path) -> None:
    (found,) = bind(f"unix:{tmp_path}/socket")
    with Client.connect(found.name):
        found.shut()
        sock, _ = found.accept()
        sock.close()
        with pytest.raises(ConnectionError):
            Client.connect(found.name)


@pytest.mark.parametrize(
    ("address", "text"),
    [
        (("127.0.0.1", 7), "127.0.0.1:7"),
        (("::1", 7, 0, 0), "[::1]:7"),
        ("/path", "unix:/path"),
        (b"\0abstract", "unix:\0abstract"),
        ("", "unix:"),
    ],
)
def test_how_an_address_is_shown(address: object, text: str) -> None:
    assert listener.display(address) == text


# Passed by a service manager.  Descriptors start at 3, which pytest uses: only what is refused
# before they are touched is tested here, the rest with a process of its own (test_serving.py).


def test_sockets_of_another_process_are_not_taken() -> None:
    environ = {"LISTEN_PID": "1", "LISTEN_FDS": "3", "LISTEN_FDNAMES": "a:b:c", "OTHER": "stays"}
    assert listener.passed(environ, 2) == []
    assert environ == {"OTHER": "stays"}


def test_no_sockets_at_all() -> None:
    assert listener.passed({}, 1) == []
    assert listener.passed({"LISTEN_PID": "1"}, 1) == []


@pytest.mark.parametrize("number", ["many", "-1", "1 ", "\u0663", "9" * 5000])
def test_a_number_of_sockets_that_is_none(number: str) -> None:
    with pytest.raises(ListenError, match="LISTEN_FDS must be a number of descriptors"):
        listener.passed({"LISTEN_PID": "1", "LISTEN_FDS": number}, 1)
