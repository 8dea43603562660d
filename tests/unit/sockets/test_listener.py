"""Listening sockets: bound here or passed."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from graced.errors import ListenError
from graced.sockets import listener
from graced.sockets.address import Address
from graced.sockets.listener import Listener
from support import Client

Bind = Callable[..., list[Listener]]


@pytest.fixture
def bind() -> Iterator[Bind]:
    """Listens, until the end of the test."""
    with ExitStack() as stack:

        def bind(
            *texts: str, backlog: int = 100, kept: Iterable[socket.socket] = ()
        ) -> list[Listener]:
            found = listener.bind([Address.parse(text) for text in texts], backlog, kept)
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


# Left by the last process.


@pytest.fixture
def leave() -> Iterator[Callable[..., list[socket.socket]]]:
    """What a process that listened on these has left: copies, since it has closed its own."""
    with ExitStack() as stack:

        def leave(*texts: str) -> list[socket.socket]:
            found = listener.bind([Address.parse(text) for text in texts], 100)
            copies = [stack.enter_context(each.sock.dup()) for each in found]
            for each in found:
                each.leave()
                each.close()
            return copies

        yield leave


Leave = Callable[..., list[socket.socket]]


def sockets(found: list[Listener]) -> list[socket.socket]:
    return [each.sock for each in found]


def is_closed(sock: socket.socket) -> bool:
    return sock.fileno() < 0


@pytest.mark.parametrize(
    "before", ["127.0.0.1:0", "[::1]:0", "localhost:0", "*:0"], ids=["4", "6", "localhost", "*"]
)
def test_what_was_left_is_used_again(bind: Bind, leave: Leave, before: str) -> None:
    kept = leave(before)
    number = kept[0].getsockname()[1]
    with Client.connect(f"{'[::1]' if '::' in before else '127.0.0.1'}:{number}") as client:
        same = before.replace(":0", f":{number}") if before != "[::1]:0" else f"[::1]:{number}"
        found = bind(same, kept=kept)
        assert sockets(found) == kept
        assert [port(each.name) for each in found] == [str(number)] * len(kept)
        # Who came while nobody was there has waited.
        accepted, address = found[0].accept()
        with accepted:
            assert address[:2] == client.sock.getsockname()[:2]
    assert not any(each.passed for each in found)


def test_port_0_is_the_one_that_was_picked_before(bind: Bind, leave: Leave) -> None:
    kept = leave("*:0")
    assert sockets(bind("*:0", kept=kept)) == kept


def test_port_0_takes_none_that_another_address_names(bind: Bind, leave: Leave) -> None:
    kept = leave("127.0.0.1:0", "127.0.0.1:0")
    named = f"127.0.0.1:{kept[0].getsockname()[1]}"
    assert sockets(bind("127.0.0.1:0", named, kept=kept)) == kept[::-1]


def test_the_order_is_that_of_the_addresses(bind: Bind, leave: Leave, tmp_path: Path) -> None:
    path = f"unix:{tmp_path}/socket"
    one, two = leave("127.0.0.1:0", path)
    found = bind("[::1]:0", path, f"127.0.0.1:{one.getsockname()[1]}", kept=[one, two])
    assert sockets(found)[1:] == [two, one]
    assert found[0].name.startswith("[::1]:")


def test_what_is_new_is_bound_beside_what_was_left(bind: Bind, leave: Leave) -> None:
    (kept,) = leave("127.0.0.1:0")
    number = kept.getsockname()[1]
    four, six = bind(f"127.0.0.1:{number}", "[::1]:0", kept=[kept])
    assert four.sock is kept
    assert six.name.startswith("[::1]:")


def test_a_family_that_was_not_there_before_gets_the_same_port(bind: Bind, leave: Leave) -> None:
    (kept,) = leave("127.0.0.1:0")
    four, six = bind("localhost:0", kept=[kept])
    assert four.sock is kept
    assert port(six.name) == port(four.name)


def test_what_is_not_asked_for_is_closed(bind: Bind, leave: Leave, tmp_path: Path) -> None:
    kept = leave("127.0.0.1:0", "[::1]:0", f"unix:{tmp_path}/old")
    (found,) = bind(f"unix:{tmp_path}/new", kept=kept)
    assert found.sock not in kept
    assert all(map(is_closed, kept))


@pytest.mark.parametrize(
    ("before", "after"),
    [("127.0.0.1", "*"), ("[::1]", "*"), ("*", "127.0.0.1"), ("*", "localhost")],
)
def test_what_is_not_asked_for_is_not_in_the_way(
    bind: Bind, leave: Leave, before: str, after: str
) -> None:
    kept = leave(f"{before}:0")
    number = kept[0].getsockname()[1]
    found = bind(f"{after}:{number}", kept=kept)
    assert {port(each.name) for each in found} == {str(number)}
    assert all(map(is_closed, kept))


def test_a_path_that_was_left_is_used_again_and_goes_at_the_end(
    bind: Bind, leave: Leave, tmp_path: Path
) -> None:
    path = tmp_path / "socket"
    (kept,) = leave(f"unix:{path}")
    with Client.connect(f"unix:{path}"):
        (found,) = bind(f"unix:{path}", kept=[kept])
        assert found.sock is kept
        found.accept()[0].close()
    found.close()
    assert not path.exists()


def test_a_path_that_has_gone_is_made_anew(bind: Bind, leave: Leave, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    (kept,) = leave(f"unix:{path}")
    path.unlink()
    (found,) = bind(f"unix:{path}", kept=[kept])
    assert found.sock is not kept
    assert is_closed(kept)
    with Client.connect(f"unix:{path}"):
        found.accept()[0].close()


def test_a_path_that_is_to_be_left_stays(bind: Bind, tmp_path: Path) -> None:
    (found,) = bind(f"unix:{tmp_path}/socket")
    found.leave()
    found.close()
    assert (tmp_path / "socket").exists()


def test_where_one_fails_nothing_that_was_left_stays_open(bind: Bind, leave: Leave) -> None:
    kept = leave("127.0.0.1:0", "127.0.0.1:0")
    named = f"127.0.0.1:{kept[0].getsockname()[1]}"
    with pytest.raises(ListenError, match="Cannot assign"):
        bind(named, "192.0.2.1:7", kept=kept)
    assert all(map(is_closed, kept))


def test_the_length_of_the_queue_is_as_configured_now(bind: Bind, leave: Leave) -> None:
    (kept,) = leave("127.0.0.1:0")
    (found,) = bind(f"127.0.0.1:{kept.getsockname()[1]}", kept=[kept], backlog=7)
    # tcpi_sacked, which is the backlog of a socket that listens.
    info = found.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 32)
    assert struct.unpack_from("=I", info, 28) == (7,)


# Passed by a service manager.  Descriptors start at 3, which pytest uses: only what is refused
# before they are touched is tested here, the rest with a process of its own (test_serving.py).


def test_sockets_of_another_process_are_not_taken() -> None:
    environ = {"LISTEN_PID": "1", "LISTEN_FDS": "3", "LISTEN_FDNAMES": "a:b:c", "OTHER": "stays"}
    assert listener.passed(environ, 2) == []
    assert environ == {"OTHER": "stays"}


def test_no_sockets_at_all() -> None:
    assert listener.passed({}, 1) == []
    assert listener.passed({"LISTEN_PID": "1"}, 1) == []


@pytest.mark.parametrize(
    ("names", "found"),
    [
        ("graced-listeners:graced-clients-0", ["graced-listeners", "graced-clients-0"]),
        ("one:", ["one", ""]),
        ("", ["", ""]),
        ("one", ["one", ""]),
        ("one:two:three", ["one", "two"]),
    ],
)
def test_each_has_a_name(names: str, found: list[str]) -> None:
    environ = {"LISTEN_PID": "7", "LISTEN_FDS": "2", "LISTEN_FDNAMES": names, "OTHER": "stays"}
    assert listener.passed(environ, 7) == list(zip([3, 4], found, strict=True))
    assert environ == {"OTHER": "stays"}


def test_names_are_not_needed() -> None:
    assert listener.passed({"LISTEN_PID": "7", "LISTEN_FDS": "1"}, 7) == [(3, "")]


@pytest.mark.parametrize("number", ["many", "-1", "1 ", "\u0663", "9" * 5000])
def test_a_number_of_sockets_that_is_none(number: str) -> None:
    with pytest.raises(ListenError, match="LISTEN_FDS must be a number of descriptors"):
        listener.passed({"LISTEN_PID": "1", "LISTEN_FDS": number}, 1)
