"""From addresses to listeners: bound here or inherited."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from graced.app import occupancy
from graced.errors import ListenError, UnresolvedError
from graced.sockets import binding, resolver
from graced.sockets.accepted import KeepAlive
from graced.sockets.address import Address
from graced.sockets.inherited_listeners import InheritedListeners
from graced.sockets.listener import Listener, refuses_connections
from graced.sockets.places import Places
from support import Client, reserved_port

Bind = Callable[..., list[Listener]]


@pytest.fixture
def bind() -> Iterator[Bind]:
    """Listens, until the end of the test."""
    with ExitStack() as stack:

        def bind(
            *texts: str, backlog: int = 100, inherited: InheritedListeners | None = None
        ) -> list[Listener]:
            addresses = [Address.parse(text) for text in texts]
            found = binding.bind(addresses, backlog, inherited)
            for each in found:
                each.own_path()
                stack.callback(each.close)
            return found

        yield bind


def port(text: str) -> str:
    return text.rpartition(":")[2]


def test_picked_port_is_in_the_name(bind: Bind) -> None:
    (found,) = bind("127.0.0.1:0")
    assert found.name == f"127.0.0.1:{found.sock.getsockname()[1]}"
    assert port(found.name) != "0"
    assert not found.passed


def test_wildcard_has_both_families_at_one_port(bind: Bind) -> None:
    four, six = bind("*:0")
    assert four.name == f"0.0.0.0:{port(four.name)}"
    assert six.name == f"[::]:{port(four.name)}"


def test_listeners_are_in_the_order_of_the_addresses(bind: Bind, tmp_path: Path) -> None:
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


def test_failure_of_one_address_closes_the_others(bind: Bind, tmp_path: Path) -> None:
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(
        ListenError, match=r"cannot listen on unix:/nonexistent/socket: No such file"
    ):
        bind("127.0.0.1:0", f"unix:{tmp_path}/socket", "unix:/nonexistent/socket")
    assert set(os.listdir("/proc/self/fd")) == before
    assert not (tmp_path / "socket").exists()


def test_address_in_use_is_an_error(bind: Bind) -> None:
    (found,) = bind("127.0.0.1:0")
    with pytest.raises(ListenError, match=f"cannot listen on {found.name}: Address already in use"):
        bind(found.name)


def test_other_addresses_are_bound_where_refusals_are_collected(tmp_path: Path) -> None:
    refused: list[tuple[Address, ListenError]] = []
    with socket.create_server(("127.0.0.1", 0)) as other:
        texts = [f"127.0.0.1:{other.getsockname()[1]}", f"unix:{tmp_path}/no/path", "[::1]:0"]
        addresses = [Address.parse(text) for text in texts]
        (found,) = binding.bind(addresses, 100, refused=refused)
    assert found.name.startswith("[::1]:")
    found.close()
    assert [str(address) for address, _ in refused] == texts[:2]
    assert [str(error).rpartition(": ")[2] for _, error in refused] == [
        "Address already in use",
        "No such file or directory",
    ]


@pytest.mark.parametrize("host", ["127.255.255.255"])
def test_broadcast_address_of_a_network_is_refused(bind: Bind, host: str) -> None:
    """bind(2) takes it, and nobody could connect."""
    with pytest.raises(ListenError, match=r"^cannot listen on .*: it is the broadcast address of"):
        bind(f"{host}:0")
    with pytest.raises(OSError, match="broadcast"):
        occupancy.try_to_bind(Address(host, 0), socket.AF_INET, (host, 0))


def test_name_of_a_multicast_group_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("224.0.0.1", 9))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answer)
    with pytest.raises(ListenError, match=r"group\.test:9: 224\.0\.0\.1 is that of a multicast"):
        binding.bind([Address.parse("group.test:9")], 10)


def test_port_in_use_in_one_family_is_an_error(bind: Bind) -> None:
    """The address is refused as a whole."""
    (found,) = bind("[::1]:0")
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(ListenError, match="Address already in use"):
        bind(f"*:{port(found.name)}")
    assert set(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("host", ["no.such.host.invalid", "näher.invalid", "x" * 300, "a..b"])
def test_unknown_host_is_an_error(bind: Bind, host: str) -> None:
    with pytest.raises(ListenError, match=r"^cannot listen on "):
        bind(f"{host}:7")


def test_stale_unix_path_is_replaced(bind: Bind, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "socket"))
        dead.listen()
    (found,) = bind(f"unix:{tmp_path}/socket")
    with Client.connect(found.name):
        found.accept()[0].close()


@pytest.mark.parametrize("kind", ["live", "file", "link"])
def test_other_files_at_the_path_stay(bind: Bind, tmp_path: Path, kind: str) -> None:
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


# Inherited.


@pytest.fixture
def inherit() -> Iterator[Callable[..., list[socket.socket]]]:
    """Sockets as a process finds them: copies, since the last process has closed its own."""
    with ExitStack() as stack:

        def inherit(*texts: str) -> list[socket.socket]:
            found = binding.bind([Address.parse(text) for text in texts], 100)
            copies = [stack.enter_context(each.sock.dup()) for each in found]
            for each in found:
                each.disown_path()
                each.close()
            return copies

        yield inherit


Inherit = Callable[..., list[socket.socket]]


def sockets(found: list[Listener]) -> list[socket.socket]:
    return [each.sock for each in found]


def are_open(found: Sequence[socket.socket]) -> bool:
    return all(sock.fileno() >= 0 and not refuses_connections(sock) for sock in found)


def are_closed(found: Sequence[socket.socket]) -> bool:
    return all(sock.fileno() < 0 for sock in found)


@pytest.mark.parametrize(
    "before", ["127.0.0.1:0", "[::1]:0", "localhost:0", "*:0"], ids=["4", "6", "localhost", "*"]
)
def test_inherited_listener_is_used_with_its_queue(
    bind: Bind, inherit: Inherit, before: str
) -> None:
    old = inherit(before)
    number = old[0].getsockname()[1]
    with Client.connect(f"{'[::1]' if '::' in before else '127.0.0.1'}:{number}") as client:
        same = before.replace(":0", f":{number}") if before != "[::1]:0" else f"[::1]:{number}"
        found = bind(same, inherited=InheritedListeners(old))
        assert sockets(found) == old
        assert [port(each.name) for each in found] == [str(number)] * len(old)
        accepted, address = found[0].accept()
        with accepted:
            assert address[:2] == client.sock.getsockname()[:2]
    assert not any(each.passed for each in found)


def test_port_0_is_the_inherited_port(bind: Bind, inherit: Inherit) -> None:
    old = inherit("*:0")
    assert sockets(bind("*:0", inherited=InheritedListeners(old))) == old


def test_port_0_takes_no_port_that_another_address_names(bind: Bind, inherit: Inherit) -> None:
    old = inherit("127.0.0.1:0", "127.0.0.1:0")
    named = f"127.0.0.1:{old[0].getsockname()[1]}"
    assert sockets(bind("127.0.0.1:0", named, inherited=InheritedListeners(old))) == old[::-1]


def test_inherited_listeners_are_in_the_order_of_the_addresses(
    bind: Bind, inherit: Inherit, tmp_path: Path
) -> None:
    path = f"unix:{tmp_path}/socket"
    one, two = inherit("127.0.0.1:0", path)
    named = f"127.0.0.1:{one.getsockname()[1]}"
    found = bind("[::1]:0", path, named, inherited=InheritedListeners([one, two]))
    assert sockets(found)[1:] == [two, one]
    assert found[0].name.startswith("[::1]:")


def test_new_address_is_bound_beside_an_inherited_one(bind: Bind, inherit: Inherit) -> None:
    (old,) = inherit("127.0.0.1:0")
    number = old.getsockname()[1]
    four, six = bind(f"127.0.0.1:{number}", "[::1]:0", inherited=InheritedListeners([old]))
    assert four.sock is old
    assert six.name.startswith("[::1]:")


def test_new_family_gets_the_inherited_port(bind: Bind, inherit: Inherit) -> None:
    (old,) = inherit("127.0.0.1:0")
    four, six = bind("localhost:0", inherited=InheritedListeners([old]))
    assert four.sock is old
    assert port(six.name) == port(four.name)


def test_surplus_listeners_stay_open_until_they_are_retired(
    bind: Bind, inherit: Inherit, tmp_path: Path
) -> None:
    old = inherit("127.0.0.1:0", "[::1]:0", f"unix:{tmp_path}/old")
    inherited = InheritedListeners(old)
    (found,) = bind(f"unix:{tmp_path}/new", inherited=inherited)
    assert found.sock not in old
    assert are_open(old)
    assert inherited.retire() == []
    assert are_closed(old)
    assert not (tmp_path / "old").exists()


@pytest.mark.parametrize("address", ["127.0.0.1:0", "[::1]:0", "unix:{}/old"])
def test_queue_of_a_retired_listener_is_returned(
    inherit: Inherit, tmp_path: Path, address: str
) -> None:
    (old,) = inherit(address.format(tmp_path))
    with ExitStack() as stack:
        # The service manager's.
        copy = stack.enter_context(old.dup())
        name = Listener(copy, inherited=True).name
        clients = [stack.enter_context(Client.connect(name)) for _ in range(3)]
        served = [stack.enter_context(s) for s in InheritedListeners([old]).retire()]
        assert len(served) == 3
        for sock, client in zip(served, clients, strict=True):
            sock.send(b"bye")
            assert client.recv() == b"bye"
        with pytest.raises((ConnectionRefusedError, FileNotFoundError)):
            Client.connect(name)


@pytest.mark.parametrize(
    ("before", "after"),
    [("127.0.0.1", "*"), ("[::1]", "*"), ("*", "127.0.0.1"), ("*", "localhost")],
)
def test_surplus_listener_in_the_way_is_retired(
    bind: Bind, inherit: Inherit, before: str, after: str
) -> None:
    old = inherit(f"{before}:0")
    number = old[0].getsockname()[1]
    inherited = InheritedListeners(old)
    with Client.connect(f"{before.replace('*', '127.0.0.1')}:{number}") as client:
        found = bind(f"{after}:{number}", inherited=inherited)
        assert {port(each.name) for each in found} == {str(number)}
        (served,) = inherited.retire()
        with served:
            served.send(b"bye")
            assert client.recv() == b"bye"
    assert are_closed(old)


def test_inherited_path_is_used_and_removed_at_the_end(
    bind: Bind, inherit: Inherit, tmp_path: Path
) -> None:
    path = tmp_path / "socket"
    (old,) = inherit(f"unix:{path}")
    with Client.connect(f"unix:{path}"):
        (found,) = bind(f"unix:{path}", inherited=InheritedListeners([old]))
        assert found.sock is old
        found.accept()[0].close()
    found.close()
    assert not path.exists()


def test_inherited_socket_whose_path_is_gone_is_replaced(
    bind: Bind, inherit: Inherit, tmp_path: Path
) -> None:
    path = tmp_path / "socket"
    (old,) = inherit(f"unix:{path}")
    path.unlink()
    inherited = InheritedListeners([old])
    (found,) = bind(f"unix:{path}", inherited=inherited)
    assert found.sock is not old
    assert inherited.retire() == []
    assert are_closed([old])
    with Client.connect(f"unix:{path}"):
        found.accept()[0].close()


@pytest.mark.parametrize("address", ["127.0.0.1:{port}", "unix:{path}/socket"])
def test_listener_that_refuses_connections_is_replaced(
    bind: Bind, inherit: Inherit, tmp_path: Path, address: str
) -> None:
    """A process that was killed while it stopped has left it."""
    (old,) = inherit(address.format(port=0, path=tmp_path))
    Listener(old, inherited=True).refuse_connections()
    name = Listener(old, inherited=True).name
    inherited = InheritedListeners([old])
    (found,) = bind(name, inherited=inherited)
    assert found.sock is not old
    with Client.connect(name):
        found.accept()[0].close()
        inherited.retire()


def test_failed_bind_leaves_inherited_listeners_as_they_were(
    bind: Bind, inherit: Inherit, tmp_path: Path
) -> None:
    path = f"unix:{tmp_path}/socket"
    old = inherit("127.0.0.1:0", "127.0.0.1:0", path)
    with ExitStack() as stack:
        # The service manager's.
        copies = [stack.enter_context(sock.dup()) for sock in old]
        named = f"127.0.0.1:{old[0].getsockname()[1]}"
        clients = [stack.enter_context(Client.connect(name)) for name in (named, path)]
        with pytest.raises(ListenError, match="No such file"):
            bind(named, path, "unix:/nonexistent/socket", inherited=InheritedListeners(old))
        assert are_open(copies)
        for copy, client in zip((copies[0], copies[2]), clients, strict=True):
            with copy.accept()[0] as served:
                served.send(b"at last")
                assert client.recv() == b"at last"
        Client.connect(path).close()


def test_backlog_is_that_of_the_configuration_now(bind: Bind, inherit: Inherit) -> None:
    (old,) = inherit("127.0.0.1:0")
    (found,) = bind(
        f"127.0.0.1:{old.getsockname()[1]}", inherited=InheritedListeners([old]), backlog=7
    )
    # tcpi_sacked, which is the backlog of a socket that listens.
    info = found.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 32)
    assert struct.unpack_from("=I", info, 28) == (7,)


class LinkLocal(socket.socket):
    """A socket that listens at fe80::1 of an interface that this machine need not have."""

    interface = 0

    def getsockname(self) -> tuple[str, int, int, int]:
        return "fe80::1", 7, 0, self.interface


def test_listener_of_another_interface_is_not_taken() -> None:
    with LinkLocal(socket.AF_INET6) as first, LinkLocal(socket.AF_INET6) as second:
        first.interface, second.interface = 1, 2
        for each in (first, second):
            each.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        inherited = InheritedListeners([first, second])
        assert inherited.take(socket.AF_INET6, "fe80::1", 7, 3) is None
        assert inherited.take(socket.AF_INET6, "fe80::1", 7, 2) is second
        assert inherited.take(socket.AF_INET6, "fe80::1", 7, 1) is first


class Names:
    """A resolver: what it says of each family, or an error."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **answers: str | OSError) -> None:
        self.answers = answers
        monkeypatch.setattr(socket, "getaddrinfo", self)

    def __call__(self, _host: bytes, port: int, family: int = 0, **_: object) -> list[object]:
        found: list[object] = []
        for name, each in (("four", socket.AF_INET), ("six", socket.AF_INET6)):
            answer = self.answers[name]
            if family and family != each:
                continue
            if isinstance(answer, str):
                rest = (0, 0) if each == socket.AF_INET6 else ()
                found.append((each, socket.SOCK_STREAM, 6, "", (answer, port, *rest)))
            elif family or name == "four":
                raise answer
        return found


LATER = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
NEVER = socket.gaierror(socket.EAI_NODATA, "No address associated with hostname")
NO_ROOM = OSError(24, "Too many open files")
"""getaddrinfo(3) says EAI_SYSTEM, and Python raises what errno says."""


@pytest.mark.parametrize(
    ("missing", "waits"), [(LATER, True), (NO_ROOM, True), (NEVER, False)], ids=str
)
def test_name_of_which_one_family_is_known_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, missing: OSError, waits: bool
) -> None:
    """A name server has answered for IPv4, and is silent about IPv6."""
    names = Names(monkeypatch, four="127.0.0.1", six=missing)
    with socket.create_server(("127.0.0.1", 0)) as sock:
        number = sock.getsockname()[1]
    address = Address.parse(f"name.test:{number}")
    unresolved: list[Address] = []
    with ExitStack() as stack:
        bound = binding.bind([address], 10, unresolved=unresolved)
        for each in bound:
            stack.callback(each.close)
        assert [each.name for each in bound] == [f"127.0.0.1:{number}"]
        assert unresolved == [address] * waits
        present = Places([address], bound)
        if waits:
            with pytest.raises(UnresolvedError, match="one family of it is not resolved yet"):
                binding.bind_late(address, 10, KeepAlive(), present)
        else:
            assert binding.bind_late(address, 10, KeepAlive(), present) == []
        names.answers["six"] = "::1"
        (late,) = binding.bind_late(address, 10, KeepAlive(), present)
        stack.callback(late.close)
        assert late.name == f"[::1]:{number}"


@pytest.mark.parametrize(
    ("hosts", "waits"),
    [
        ("127.0.0.1 other.test name.test # of the device", False),
        ("# comment\n\n127.0.0.1\tNAME.test", False),
        ("127.0.0.1 other.test # name.test", True),
        ("127.0.0.1 name.test.other", True),
        ("\xe4 \x00", True),
        (None, True),
    ],
)
def test_name_of_hosts_file_has_no_more_addresses(
    hosts: str | None, waits: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device without a name server, which is asked for one family alone and not for both."""
    Names(monkeypatch, four="127.0.0.1", six=LATER)
    monkeypatch.setattr(resolver, "_HOSTS", str(tmp_path / "hosts"))
    if hosts is not None:
        (tmp_path / "hosts").write_text(hosts, encoding="latin-1")
    unresolved: list[Address] = []
    with ExitStack() as stack:
        address = Address.parse(f"name.test:{stack.enter_context(reserved_port())}")
        for each in binding.bind([address], 10, unresolved=unresolved):
            stack.callback(each.close)
    assert unresolved == [address] * waits


def test_resolver_without_descriptors_is_one_that_answers_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Names(monkeypatch, four=NO_ROOM, six=NO_ROOM)
    address = Address.parse("name.test:9")
    unresolved: list[Address] = []
    assert binding.bind([address], 10, unresolved=unresolved) == []
    assert unresolved == [address]
    with pytest.raises(ListenError, match=r"^cannot listen on name\.test:9: Too many open files$"):
        binding.bind([address], 10)
    with pytest.raises(UnresolvedError):
        binding.bind_late(address, 10, KeepAlive(), Places())


def test_listener_that_is_in_use_makes_no_way(bind: Bind, inherit: Inherit) -> None:
    old = inherit("127.0.0.1:0")
    number = old[0].getsockname()[1]
    with pytest.raises(ListenError, match="Address already in use"):
        bind(f"0.0.0.0:{number}", inherited=InheritedListeners(old, in_use=True))
    with Client.connect(f"127.0.0.1:{number}"):
        old[0].accept()[0].close()
