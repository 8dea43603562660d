"""Listening sockets, by the tables of the kernel."""

from __future__ import annotations

import io
import os
import socket
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from graced.app import occupancy
from graced.errors import ConfigError
from graced.sockets.address import Address

V4, V6 = socket.AF_INET, socket.AF_INET6


def inode(sock: socket.socket) -> int:
    return os.fstat(sock.fileno()).st_ino


@pytest.mark.parametrize(
    ("family", "host", "asked"),
    [
        (V4, "127.0.0.1", "127.0.0.1"),
        (V4, "127.0.0.1", "0.0.0.0"),
        (V4, "0.0.0.0", "127.0.0.1"),
        (V6, "::1", "::1"),
        (V6, "::1", "::"),
        (V6, "::", "::1"),
    ],
)
def test_listener_is_found(family: int, host: str, asked: str) -> None:
    with socket.create_server((host, 0), family=family) as sock:
        port = sock.getsockname()[1]
        assert inode(sock) in occupancy.listening_at(family, asked, port)


def test_listener_elsewhere_is_not_found() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
        assert inode(sock) not in occupancy.listening_at(V4, "127.0.0.2", port)
        assert inode(sock) not in occupancy.listening_at(V6, "::1", port)
        with socket.create_connection(("127.0.0.1", port)) as client:
            assert occupancy.listening_at(V4, "127.0.0.1", client.getsockname()[1]) == set()


def test_listener_for_both_families_is_found_for_either() -> None:
    with socket.create_server(("::", 0), family=V6, dualstack_ipv6=True) as sock:
        port = sock.getsockname()[1]
        assert occupancy.listening_at(V4, "127.0.0.1", port) == {inode(sock)}
        assert occupancy.listening_at(V6, "::1", port) == {inode(sock)}


def test_path_with_a_listener_is_found(tmp_path: Path) -> None:
    path = str(tmp_path / "with a space")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
        assert occupancy.listening_at_path(path) == set()
        sock.listen()
        assert occupancy.listening_at_path(path) == {inode(sock)}
    assert occupancy.listening_at_path(path) == set()


def test_path_is_found_by_each_of_its_names(tmp_path: Path) -> None:
    """/var/run is /run."""
    (tmp_path / "run").mkdir()
    (tmp_path / "link").symlink_to("run")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(f"{tmp_path}/run/socket")
        sock.listen()
        for name in ("link/socket", "run/../link/socket", "run//socket"):
            assert occupancy.listening_at_path(f"{tmp_path}/{name}") == {inode(sock)}
        assert occupancy.listening_at_path(f"{tmp_path}/socket") == set()


def test_paths_of_one_socket_overlap(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "link").symlink_to("run")
    for other in ("link/s", "run/../link/s", "run//s", "run/./s"):
        texts = [f"unix:{tmp_path}/run/s", f"unix:{tmp_path}/{other}"]
        with pytest.raises(ConfigError, match="overlap"):
            occupancy.refuse_overlaps([Address.parse(text) for text in texts])


def test_sockets_of_a_process_are_found() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        number = inode(sock)
        assert number in (occupancy.sockets_of(os.getpid()) or ())
    assert number not in (occupancy.sockets_of(os.getpid()) or ())


def test_process_that_cannot_be_seen_is_unknown() -> None:
    assert occupancy.sockets_of(2**22 + 1) is None


def test_process_in_another_user_namespace_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(path: str) -> str:
        raise PermissionError(path)

    monkeypatch.setattr(os, "readlink", deny)
    assert occupancy.sockets_of(os.getpid()) is None


@pytest.mark.parametrize(
    "listen",
    [
        "*:7 127.0.0.1:7",
        "127.0.0.1:7 *:7",
        "*:7 [::1]:7",
        "localhost:7 localhost:7",
        "localhost:7 127.0.0.1:7",
        "[::]:7 [::1]:7",
        "[fe80::1%1]:7 [fe80::1%1]:7",
        "[::]:7 [fe80::1%1]:7",
        "unix:/a unix:/a",
    ],
)
def test_overlap_is_refused(listen: str) -> None:
    first, second = map(Address.parse, listen.split())
    with pytest.raises(ConfigError, match=r"^server\.listen: .* and .* overlap"):
        occupancy.refuse_overlaps([first, second])


@pytest.mark.parametrize(
    "listen",
    [
        "*:7 *:8",
        "127.0.0.1:7 127.0.0.2:7",
        "0.0.0.0:7 [::]:7",
        "127.0.0.1:7 [::1]:7",
        "*:0 *:0",
        "127.0.0.1:0 *:0 localhost:0",
        "[fe80::1%1]:7 [fe80::1%2]:7",
        "unix:/a unix:/b",
    ],
)
def test_addresses_apart_are_not_refused(listen: str) -> None:
    occupancy.refuse_overlaps([Address.parse(text) for text in listen.split()])


def test_bind_is_tried_and_nothing_is_left_behind() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = Address("127.0.0.1", taken.getsockname()[1])
        with pytest.raises(OSError, match="in use"):
            occupancy.try_to_bind(address, V4, ("127.0.0.1", 0))
    occupancy.try_to_bind(address, V4, ("127.0.0.1", 0))
    with socket.create_server(("127.0.0.1", address.port)):
        pass


@pytest.mark.parametrize(
    "name",
    ["x\na b c zz e f g h", "x\n0: 2 0 10000 1 1 nine {path}", "x\n\n", "x\n0: 2 0 10000"],
    ids=["no numbers", "no inode", "no columns", "few columns"],
)
def test_line_breaks_in_the_path_of_another_program_are_no_error(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel prints paths as they are, and every user may listen at such a path."""
    # Twice in the name of a socket, which has 108 bytes.
    with TemporaryDirectory(dir="/tmp") as directory, ExitStack() as stack:
        monkeypatch.chdir(directory)
        ours, theirs = f"{directory}/h", name.format(path=f"{directory}/h")
        Path(theirs).parent.mkdir(parents=True, exist_ok=True)
        other, sock = (stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(2))
        other.bind(theirs)
        other.listen()
        assert occupancy.listening_at_path(ours) == set()
        sock.bind(ours)
        sock.listen()
        assert occupancy.listening_at_path(ours) == {inode(sock)}


def test_line_that_the_kernel_leaves_out_once_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gives a page at a time, and sockets come and go in between."""
    readings = 0

    def without_our_line(path: str, **options: str) -> io.StringIO:
        nonlocal readings
        readings += 1
        lines = Path(path).read_text(**options).splitlines(keepends=True)
        return io.StringIO("".join(line for line in lines if readings > 1 or "/h" not in line))

    monkeypatch.setattr(occupancy, "open", without_our_line, raising=False)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "h"))
        sock.listen()
        assert occupancy.listening_at_path(f"{tmp_path}/h") == {inode(sock)}


def test_directories_of_other_sockets_are_not_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One may be on a network file system that does not answer."""
    looked: list[str] = []

    def real_path(path: str) -> str:
        looked.append(path)
        return path

    monkeypatch.setattr(occupancy, "real_path", real_path)
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(tmp_path / "other"))
        other.listen()
        occupancy.listening_at_path("/d/ours")
    assert looked == ["/d/ours"]
