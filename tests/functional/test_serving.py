"""Serving: whatever a client sends comes back, wherever it comes in by."""

from __future__ import annotations

import fcntl
import os
import re
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from signal import SIGCONT, SIGSTOP, SIGTERM, SIGUSR1

import pytest

from functional.conftest import HANDLERS
from support import Daemon, Graced, run_graced

MANY = 300


def test_every_handler_echoes_at_every_address(handler: str, every_address: str) -> None:
    with Graced("--handler", handler, listen=every_address) as graced:
        for number in range(len(graced.addresses)):
            with graced.connect(number) as client:
                for size in (1, 1000, 100_000, 2):
                    client.echo(bytes(index % 251 for index in range(size)))
        assert graced.stop() == 0


def test_wildcard_is_both_families_at_one_port() -> None:
    with Graced(listen="*:0") as graced:
        four, six = graced.addresses
    assert re.fullmatch(r"0\.0\.0\.0:(\d+)", four)
    assert six == f"[::]:{four.rpartition(':')[2]}"


def test_several_addresses_at_once(tmp_path: Path) -> None:
    listen = ["127.0.0.1:0", "[::1]:0", "127.0.0.1:0", f"unix:{tmp_path}/socket"]
    with Graced(listen=listen) as graced:
        assert len(set(graced.addresses)) == len(listen)
        with ExitStack() as stack:
            for number in range(len(listen)):
                stack.enter_context(graced.connect(number)).echo(b"%d" % number)


def test_name_stands_for_all_its_addresses() -> None:
    with Graced(listen="localhost:0") as graced:
        hosts = {address.rpartition(":")[0] for address in graced.addresses}
        resolved = socket.getaddrinfo("localhost", 0, type=socket.SOCK_STREAM)
        assert hosts >= {
            f"[{name[0]}]" if family == socket.AF_INET6 else name[0]
            for family, _, _, _, name in resolved
        }
        for number in range(len(graced.addresses)):
            with graced.connect(number) as client:
                client.echo(b"hello")


def test_half_closed_client_gets_everything(handler: str, address: str) -> None:
    with (
        Graced("--handler", handler, listen=address) as graced,
        graced.connect() as client,
    ):
        client.send(b"x" * 50_000)
        client.finish()
        assert client.recv_to_end() == b"x" * 50_000


def test_more_bytes_than_all_buffers_hold(handler: str, address: str) -> None:
    data = b"".join(number.to_bytes(4, "big") for number in range(5_000_000 // 4))
    with (
        Graced("--handler", handler, listen=address) as graced,
        graced.connect() as client,
    ):
        sender = threading.Thread(target=client.send, args=(data,))
        sender.start()
        received = client.recv_exactly(len(data))
        sender.join()
        assert received == data


@pytest.mark.parametrize("handler", ["echo", "echo-threaded"])
def test_storm_of_connects_finds_room_in_queue(handler: str) -> None:
    """The article's server has a backlog of 5, at which 16 at once take seconds."""
    with Graced("--handler", handler, config=f"[limits]\nmax_handler_threads = {MANY}") as graced:
        graced.signal(SIGSTOP)
        try:
            clients = [graced.connect() for _ in range(MANY)]
            for number, client in enumerate(clients):
                client.send(b"%d" % number)
        finally:
            graced.signal(SIGCONT)
        for number, client in enumerate(clients):
            with client:
                assert client.recv_exactly(len(b"%d" % number)) == b"%d" % number


def test_connect_and_departure_of_each_client_are_logged(handler: str) -> None:
    with Graced("--handler", handler) as graced:
        with graced.connect() as client:
            name = client.name
            client.echo(b"hello")
        gone = graced.log.wait_for(f"^<6>closing connection from {name}: .*$")
        assert re.search(r": (closed by the client|handler ended), 5 bytes echoed in", gone[0])
        assert graced.log.count(name) == 2
        assert graced.log.count(f"^<6>connection from {name}$") == 1


def test_unix_client_is_named_by_path_and_number(tmp_path: Path) -> None:
    path = f"unix:{tmp_path}/socket"
    with Graced(listen=path) as graced:
        for number in (1, 2):
            with graced.connect() as client:
                client.echo(b"hello")
            graced.log.wait_for(f"closing connection from {path}#{number}: closed by the client")


def test_connections_need_not_be_logged(handler: str) -> None:
    with Graced("--handler", handler, config="[log]\nconnections = false") as graced:
        with graced.connect() as client:
            client.echo(b"hello")
            client.finish()
            client.expect_end()
        assert graced.stop() == 0
        assert not graced.log.count("connection from")


def test_payload_is_logged_at_debug_only_cut_and_escaped() -> None:
    secret = b"\x1b[31msecret\n" + b"x" * 1000
    with Graced("--grace", "0") as graced, graced.connect() as client:
        client.echo(secret)
        assert graced.stop() == 0
        assert not graced.log.count("secret")
    with Graced("-v") as graced, graced.connect() as client:
        client.echo(secret)
        line = graced.log.wait_for("received from .*secret")
        excerpt = re.match(rf"<7>received from {client.name}: (.*)$", line.string)
        assert excerpt
        assert excerpt[1] == repr(secret[:64]) + f"... ({len(secret)} bytes)"


def test_usr1_logs_status() -> None:
    with Graced() as graced, graced.connect() as client:
        client.echo(b"hello")
        # What this one adds may be counted later than it is read, but the first one is.
        client.echo(b"hello")
        graced.signal(SIGUSR1)
        graced.log.wait_for(r"^<6>serving: 1 client now, 1 so far, (5|10) bytes echoed on .*$")


def test_reset_is_one_log_line_without_traceback(handler: str, address: str) -> None:
    with Graced("--handler", handler, listen=address) as graced:
        for _ in range(3):
            with graced.connect() as client:
                client.echo(b"hello")
                # What is sent now may be found together with the end.
                client.send(b"and bye")
                client.reset()
        graced.log.wait_for("closing connection", 3)
        assert graced.stop() == 0
        assert graced.log.count("connection from") == 6
        others = [line for line in graced.log.lines if "recv: " not in line]
        assert len(others) == 6 + 3, str(graced.log)


def test_client_that_does_not_read_does_not_delay_other_clients(handler: str, address: str) -> None:
    with Graced("--handler", handler, listen=address) as graced, graced.connect() as deaf:
        deaf.send_until_full()
        for _ in range(5):
            with graced.connect() as client:
                client.echo(b"hello" * 1000)


def test_path_of_unix_socket_is_created_and_removed(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with Graced(listen=f"unix:{path}") as graced:
        assert stat.S_ISSOCK(path.stat().st_mode)
        assert graced.stop() == 0
    assert not path.exists()


def test_stale_path_is_no_obstacle(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with Graced(listen=f"unix:{path}") as graced, graced.connect() as client:
        client.echo(b"hello")


def test_path_that_another_has_taken_over_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with Graced(listen=f"unix:{path}") as graced:
        path.unlink()
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(path))
            assert graced.stop() == 0
            assert path.exists()


@pytest.mark.parametrize("kind", ["live", "file"])
def test_path_in_use_is_left_alone(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as other:
        if kind == "live":
            other.bind(str(path))
            other.listen()
        else:
            path.write_text("precious")
        found = run_graced("--config", "/dev/null", "--listen", f"unix:{path}")
    assert found.returncode == 69
    assert found.stderr == f"graced: cannot listen on unix:{path}: Address already in use\n"
    assert path.exists()


# Sockets that a service manager passes.

PASS = """
import os, sys
os.environ["LISTEN_PID"] = str(os.getpid())
for target, fd in enumerate(map(int, os.environ.pop("PASSED").split()), 3):
    os.dup2(fd, target)
"""


@contextmanager
def passed(*sockets: socket.socket | int) -> Iterator[tuple[dict[str, str], list[int]]]:
    """What the environment says of sockets that are passed, and their descriptors."""
    # High, where those of the program that is started cannot be in the way.
    copies = [fcntl.fcntl(sock, fcntl.F_DUPFD_CLOEXEC, 100) for sock in sockets]
    try:
        yield {"LISTEN_FDS": str(len(copies)), "PASSED": " ".join(map(str, copies))}, copies
    finally:
        for copy in copies:
            os.close(copy)


@pytest.mark.parametrize("kind", [Graced, Daemon])
@pytest.mark.parametrize("handler", HANDLERS.values(), ids=list(HANDLERS))
def test_passed_sockets_are_served_and_left_open(
    kind: type[Graced | Daemon], handler: str, tmp_path: Path
) -> None:
    path = tmp_path / "socket"
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(socket.AF_UNIX) as unix,
        ExitStack() as stack,
    ):
        unix.bind(str(path))
        unix.listen()
        env, fds = stack.enter_context(passed(tcp, unix))
        with kind("--handler", handler, env=env, pass_fds=fds, before=PASS) as graced:
            assert graced.addresses == [
                f"127.0.0.1:{tcp.getsockname()[1]}",
                f"unix:{path}",
            ]
            clients = [stack.enter_context(graced.connect(number)) for number in (0, 1)]
            for client in clients:
                client.echo(b"hello")
            graced.signal(SIGTERM)
            for client in clients:
                client.expect_farewell_alone()
            # Who comes now is for the next start.
            late = stack.enter_context(graced.connect())
            late.send(b"anybody?")
            for client in clients:
                client.close()
            assert graced.wait() == 0
        tcp.settimeout(0)
        accepted, _ = tcp.accept()
        with accepted:
            assert accepted.recv(100) == b"anybody?"
        assert path.exists()


def test_sockets_passed_to_another_process_are_not_ours() -> None:
    with Graced(env={"LISTEN_FDS": "1", "LISTEN_PID": "1"}) as graced, graced.connect() as client:
        client.echo(b"hello")


@pytest.mark.parametrize(
    ("number", "complaint"),
    [
        ("2", "passed descriptor 4 is no socket: Bad file descriptor"),
        ("1", "passed descriptor 3 is no listening stream socket"),
        ("many", "LISTEN_FDS must be a number of descriptors, not 'many'"),
        ("-1", "LISTEN_FDS must be a number of descriptors, not '-1'"),
    ],
)
def test_passed_nonsense_is_refused(number: str, complaint: str) -> None:
    with socket.socket() as sock, passed(sock) as (env, fds):
        if number == "2":
            sock.listen()
        env["LISTEN_FDS"] = number
        found = run_graced("--config", "/dev/null", before=PASS, env=env, pass_fds=fds)
    assert found.returncode == 69
    assert found.stderr == f"graced: {complaint}\n"


def fifo(directory: Path) -> int:
    path = directory / "fifo"
    os.mkfifo(path)
    return os.open(path, os.O_RDWR)


@pytest.mark.parametrize(
    "make", [fifo, lambda directory: os.open(directory, os.O_RDONLY), lambda _: os.eventfd(0)]
)
def test_passed_descriptor_of_another_kind_is_refused(
    make: Callable[[Path], int], tmp_path: Path
) -> None:
    made = make(tmp_path)
    with passed(made) as (env, fds):
        os.close(made)
        found = run_graced("--config", "/dev/null", before=PASS, env=env, pass_fds=fds)
    assert found.returncode == 69
    complaint = "passed descriptor 3 is no socket: Socket operation on non-socket"
    assert found.stderr == f"graced: {complaint}\n"


def test_listener_that_is_passed_twice_is_served(tmp_path: Path) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as sock,
        passed(sock, sock) as (env, fds),
        Graced(env=env, pass_fds=fds, before=PASS) as graced,
        graced.served() as client,
    ):
        client.echo(b"hello")
        graced.signal(SIGTERM)
        client.expect_farewell_alone()


@pytest.mark.parametrize(
    ("kind", "complaint"),
    [
        ((socket.AF_VSOCK, socket.SOCK_STREAM), "no TCP or Unix socket"),
        ((socket.AF_INET, socket.SOCK_DGRAM), "no listening stream socket"),
        ((socket.AF_UNIX, socket.SOCK_SEQPACKET), "no listening stream socket"),
        ((socket.AF_NETLINK, socket.SOCK_RAW), "no listening stream socket"),
    ],
    ids=["vsock", "udp", "seqpacket", "netlink"],
)
def test_passed_socket_that_cannot_be_served_is_refused(
    kind: tuple[socket.AddressFamily, socket.SocketKind], complaint: str, tmp_path: Path
) -> None:
    with socket.socket(*kind) as sock, passed(sock) as (env, fds):
        if kind[0] == socket.AF_VSOCK:
            sock.bind((socket.VMADDR_CID_ANY, socket.VMADDR_PORT_ANY))
        elif kind[0] == socket.AF_UNIX:
            sock.bind(str(tmp_path / "socket"))
        if kind[0] in {socket.AF_VSOCK, socket.AF_UNIX}:
            sock.listen()
        found = run_graced("--config", "/dev/null", before=PASS, env=env, pass_fds=fds)
    assert found.returncode == 69
    assert found.stderr == f"graced: passed descriptor 3 is {complaint}\n"


@pytest.mark.parametrize("kind", ["connected", "datagram", "raw", "listening too"])
def test_passed_socket_that_is_no_listener_is_refused(kind: str) -> None:
    """A connected stream (``Accept=yes``), a datagram socket of Unix, a packet socket.

    The last one: a connected stream beside a good listener.
    """
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        sockets = [listener] * (kind == "listening too")
        if kind == "datagram":
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        elif kind == "raw":
            # One of the kernel's own protocols, for which nobody needs a privilege.
            sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)
        else:
            stack.enter_context(socket.create_connection(listener.getsockname()))
            sock, _ = listener.accept()
        sockets.append(stack.enter_context(sock))
        env, fds = stack.enter_context(passed(*sockets))
        found = run_graced("--config", "/dev/null", before=PASS, env=env, pass_fds=fds)
    assert found.returncode == 69
    number = 2 + len(sockets)
    assert found.stderr == f"graced: passed descriptor {number} is no listening stream socket\n"


@pytest.mark.needs("/proc/sys/net/mptcp")
def test_passed_multipath_listener_is_served() -> None:
    """What the kernel has not for MPTCP is one warning."""
    with ExitStack() as stack:
        sock = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262))
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        env, fds = stack.enter_context(passed(sock))
        with Graced(env=env, pass_fds=fds, before=PASS) as graced, graced.served() as client:
            client.echo(b"hello")
            graced.signal(SIGTERM)
            client.expect_farewell_alone()
            client.close()
            assert graced.wait() == 0
            assert graced.log.count("^<[0-4]>") <= 1
