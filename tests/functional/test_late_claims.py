"""Addresses and pidfiles that another program has, or that cannot be had for another reason.

The first start of a service is refused.  The service manager starts it again, and that start goes
on without what is missing.  `FdStore` is the service manager; device/test_start.py has systemd.
"""

from __future__ import annotations

import fcntl
import socket
from collections.abc import Iterator
from pathlib import Path
from signal import SIGTERM, SIGUSR2
from typing import Any

import pytest

from support import PASS, Client, Daemon, FdStore, Graced, run_graced
from support.forbid import Forbidden

TAKEN = "cannot listen on {}: Address already in use"
AGAIN = "; trying again while the service runs, once a minute in the end"


@pytest.fixture
def squatter() -> Iterator[socket.socket]:
    """Another program that has an address."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


def address_of(sock: socket.socket) -> str:
    return f"127.0.0.1:{sock.getsockname()[1]}"


def manager(store: FdStore) -> dict[str, Any]:
    """What the service manager gives the next process of the service."""
    return {"env": store.environment, "before": PASS, "pass_fds": store.descriptors}


def refuse(store: FdStore, *options: str, status: int) -> str:
    """A start that is refused; return the reason."""
    found = run_graced("--config", "/dev/null", *options, **manager(store))
    assert found.returncode == status, found
    assert found.stderr.count("\n") == 1
    assert store.names == ["graced-refused"]
    return found.stderr.rstrip("\n").removeprefix("graced: ")


def end(graced: Graced | Daemon) -> None:
    graced.signal(SIGTERM)
    assert graced.wait() == 0


@pytest.mark.parametrize("kind", [Graced, Daemon])
def test_busy_address_is_served_as_soon_as_it_is_free(
    store: FdStore, squatter: socket.socket, kind: type[Graced | Daemon], tmp_path: Path
) -> None:
    address = address_of(squatter)
    reason = TAKEN.format(address)
    options = ["--daemon", "--pid-file", f"{tmp_path}/pid"] if kind is Daemon else []
    assert refuse(store, "--listen", address, *options, status=69) == reason
    with kind(listen=address, **manager(store)) as graced:
        graced.log.wait_for(f"^<4>{reason}{AGAIN}$")
        store.wait_for(f"; {reason}, trying again")
        squatter.close()
        graced.log.wait_for(f"^<6>serving on {address} now; before: {reason}$")
        with Client.connect(address) as client:
            client.echo(b"at last")
        assert "graced-refused" not in store.names
        end(graced)
        assert graced.log.count(reason + AGAIN) == 1


def test_other_addresses_are_served_meanwhile(store: FdStore, squatter: socket.socket) -> None:
    busy = address_of(squatter)
    refuse(store, "--listen", "127.0.0.1:0", "--listen", busy, status=69)
    with Graced(listen=["127.0.0.1:0", busy], **manager(store)) as graced:
        with graced.served() as client:
            client.echo(b"hello")
        squatter.close()
        graced.log.wait_for(f"^<6>serving on {busy} now")
        with Client.connect(busy) as client:
            client.echo(b"here too")
        end(graced)


@pytest.mark.parametrize("obstacle", ["directory", "file", "socket"])
def test_path_is_served_as_soon_as_that_is_possible(
    store: FdStore, tmp_path: Path, obstacle: str
) -> None:
    path = tmp_path / "directory" / "socket"
    other = socket.socket(socket.AF_UNIX)
    if obstacle != "directory":
        path.parent.mkdir()
    if obstacle == "file":
        path.write_text("something else")
    elif obstacle == "socket":
        other.bind(str(path))
        other.listen()
    with other:
        reason = refuse(store, "--listen", f"unix:{path}", status=69)
        with Graced(listen=f"unix:{path}", **manager(store)) as graced:
            graced.log.wait_for(f"^<4>{reason}{AGAIN}$")
            other.close()
            if obstacle == "directory":
                path.parent.mkdir()
            elif obstacle == "file":
                path.unlink()
            graced.log.wait_for(f"^<6>serving on unix:{path} now")
            with Client.connect(f"unix:{path}") as client:
                client.echo(b"at last")
            end(graced)
        assert not path.exists()


def test_path_that_is_bound_late_has_the_mode_of_the_start(store: FdStore, tmp_path: Path) -> None:
    """`UMask=0007` lets a group in; a daemon that has forked has a umask of its own."""
    path = tmp_path / "directory" / "socket"
    refuse(store, "--listen", f"unix:{path}", status=69)
    more = manager(store)
    more["before"] += "os.umask(0o007)\n"
    with Daemon(listen=f"unix:{path}", **more) as daemon:
        path.parent.mkdir()
        daemon.log.wait_for(f"^<6>serving on unix:{path} now")
        assert path.stat().st_mode & 0o777 == 0o770
        end(daemon)


def test_pidfile_is_written_as_soon_as_that_is_possible(store: FdStore, tmp_path: Path) -> None:
    path = tmp_path / "directory" / "pid"
    reason = refuse(store, "--listen", "127.0.0.1:0", "--pid-file", str(path), status=73)
    with Graced("--pid-file", str(path), **manager(store)) as graced:
        graced.log.wait_for(f"^<4>{reason}{AGAIN}$")
        store.wait_for(f"; {reason}, trying again")
        with graced.served() as client:
            client.echo(b"meanwhile")
        path.parent.mkdir()
        graced.log.wait_for(f"^<6>pidfile {path} is written now; before: {reason}$")
        assert path.read_text() == f"{graced.pid}\n"
        end(graced)
    assert not path.exists()


def test_running_instance_is_waited_for(store: FdStore, tmp_path: Path) -> None:
    path = tmp_path / "pid"
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        reason = refuse(store, "--listen", "127.0.0.1:0", "--pid-file", str(path), status=75)
        with Graced("--pid-file", str(path), **manager(store)) as graced:
            graced.log.wait_for(f"^<4>{reason}{AGAIN}$")
            fcntl.flock(file, fcntl.LOCK_UN)
            graced.log.wait_for(f"^<6>pidfile {path} is written now")
            assert path.read_text() == f"{graced.pid}\n"
            end(graced)


def test_pidfile_on_full_disk_costs_no_client(store: FdStore) -> None:
    """A restart; the pidfile can be locked and not written."""
    faulty = "support.faulty:FullDiskHandler"
    with Graced(**manager(store)) as first:
        (address,) = first.addresses
        client = first.served()
        first.signal(SIGUSR2)
        assert first.wait() == 79
    with client, Daemon("--handler", faulty, listen=address, **manager(store)) as second:
        second.log.wait_for(r"^<4>cannot write pidfile .*: No space left on device; trying ag")
        client.echo(b"still here")
        client.close()
        end(second)
        assert not second.pid_file.exists()


def test_restart_with_busy_address_costs_no_client(store: FdStore, squatter: socket.socket) -> None:
    busy = address_of(squatter)
    with Graced(**manager(store)) as first:
        (address,) = first.addresses
        client = first.served()
        first.signal(SIGUSR2)
        assert first.wait() == 79
    with client, Client.connect(address) as queued:
        # Not refused: there are clients.
        with Graced(listen=[address, busy], **manager(store)) as second:
            client.echo(b"still here")
            queued.echo(b"here")
            second.log.wait_for(f"^<4>{TAKEN.format(busy)}{AGAIN}$")
            # The next restart has the same obstacle.
            second.signal(SIGUSR2)
            assert second.wait() == 79
        with Graced(listen=[address, busy], **manager(store)) as third:
            for each in (client, queued):
                each.echo(b"still")
                each.close()
            end(third)


def test_restart_whose_pidfile_is_lost_costs_no_client(store: FdStore) -> None:
    """Something else is at its path by now: the next start goes on, and so does the check."""
    with Daemon(**manager(store)) as first, first.served() as client:
        first.pid_file.unlink()
        first.pid_file.mkdir()
        first.signal(SIGUSR2)
        assert first.wait() == 79
        with Graced(listen=first.addresses[0], **manager(store)) as second:
            client.echo(b"still here")
            client.close()
            end(second)


@pytest.mark.parametrize("daemon", [False, True], ids=["foreground", "daemon"])
def test_restart_without_thread_for_busy_address_costs_no_client(
    store: FdStore, squatter: socket.socket, tmp_path: Path, daemon: bool
) -> None:
    """The start fails before it has taken over the clients, and the start after it has them."""
    busy = address_of(squatter)
    with Graced(**manager(store)) as first:
        (address,) = first.addresses
        client = first.served()
        first.signal(SIGUSR2)
        assert first.wait() == 79
    with client:
        kept = store.names
        options = ["--daemon", "--pid-file", f"{tmp_path}/pid"] if daemon else []
        options += ["--handler", "support.faulty:NoLateThreadHandler"]
        listen = ["--listen", address, "--listen", busy]
        found = run_graced("--config", "/dev/null", *listen, *options, **manager(store))
        assert found.returncode == 1, found
        assert "cannot start a thread: can't start new thread" in found.stderr
        assert "Traceback" not in found.stderr
        assert store.names == kept
        with Graced(listen=[address, busy], **manager(store)) as third:
            client.echo(b"still here")
            client.close()
            end(third)


@pytest.mark.parametrize("error", ["ENOSYS", "EPERM"])
def test_refusal_needs_no_memfd(store: FdStore, squatter: socket.socket, error: str) -> None:
    """The mark in the store is another file where a container forbids memfd_create(2)."""
    busy = address_of(squatter)
    forbidding = manager(store)
    forbidding["before"] += Forbidden("memfd_create", error).code
    found = run_graced("--config", "/dev/null", "--listen", busy, **forbidding)
    assert found.returncode == 69, found
    assert found.stderr == f"graced: {TAKEN.format(busy)}\n"
    assert store.names == ["graced-refused"]
    with Graced(listen=busy, **manager(store)) as graced:
        graced.log.wait_for(f"^<4>{TAKEN.format(busy)}{AGAIN}$")
        end(graced)


def test_restart_that_would_serve_nothing_is_stop(store: FdStore, squatter: socket.socket) -> None:
    """The administrator sees why."""
    busy = address_of(squatter)
    refuse(store, "--listen", busy, status=69)
    with Graced(listen=busy, **manager(store)) as graced:
        store.wait_for("trying again")
        graced.signal(SIGUSR2)
        assert graced.wait() == 0
        graced.log.wait_for("^<4>.*" + TAKEN.format(busy))
    found = run_graced("--config", "/dev/null", "--listen", busy, **manager(store))
    assert found.returncode == 69


def test_passed_descriptor_that_cannot_be_served_is_said(store: FdStore) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        with socket.create_server(("127.0.0.1", 0)) as good:
            passed = [good.fileno(), sock.fileno()]
            first = {**store.environment, "LISTEN_FDS": "2", "PASSED": " ".join(map(str, passed))}
            found = run_graced("--config", "/dev/null", env=first, before=PASS, pass_fds=passed)
            assert found.returncode == 69
            every = [*passed, *store.descriptors]
            again = {
                **store.environment,
                "LISTEN_FDS": "3",
                "LISTEN_FDNAMES": "a:b:graced-refused",
                "PASSED": " ".join(map(str, every)),
            }
            with Graced(env=again, before=PASS, pass_fds=every) as graced:
                graced.log.wait_for(
                    "^<4>passed descriptor 4 is no listening stream socket; the service serves"
                )
                with Client.connect(address_of(good)) as client:
                    client.echo(b"hello")
                end(graced)


def test_wrong_configuration_is_final(store: FdStore) -> None:
    found = run_graced(
        "--config", "/dev/null", "--listen", "*:1", "--listen", "127.0.0.1:1", **manager(store)
    )
    assert found.returncode == 78
    assert store.names == []
