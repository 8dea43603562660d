"""Addresses that lead elsewhere while the service runs: names, paths, interfaces.

The service looks once a minute; here it looks all the time (`support.faulty.QuickLookHandler`).
"""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from signal import SIGTERM, SIGUSR2

import pytest

from functional.test_late_names import NAME, NamedGraced, Place, Resolver
from support import PASS, PATIENCE, Client, FdStore, Graced, environment, reserved_port
from support.process import LEFT_TO_THE_KERNEL

QUICK = ("--handler", "support.faulty:QuickLookHandler")
INTERFACE = Path(__file__).with_name("moving_interface.py")


@pytest.fixture
def resolver(tmp_path: Path) -> Resolver:
    return Resolver(tmp_path)


@pytest.fixture
def place() -> Iterator[Place]:
    with reserved_port() as port:
        yield Place(port)


def left(address: str) -> str:
    return f"^<6>no longer listening on {address}: "


def refuses(address: str) -> bool:
    try:
        Client.connect(address).close()
    except OSError:
        return True
    return False


def test_name_that_moves_is_served_where_it_is(
    resolver: Resolver, store: FdStore, place: Place
) -> None:
    """A client of the old address is served on."""
    old, new = (f"127.0.0.{n}:{place.port}" for n in (2, 3))
    resolver.knows("127.0.0.2")
    listen = ["127.0.0.1:0", place.address]
    with NamedGraced(resolver, *QUICK, listen=listen, env=store.environment) as graced:
        client = Client.connect(old)
        client.echo(b"before")
        resolver.hosts.write_text(f"127.0.0.1 localhost\n127.0.0.3 {NAME}\n")
        graced.log.wait_for(place.found + f"{new} too")
        graced.log.wait_for(left(old))
        assert refuses(old)
        assert not refuses(graced.addresses[0])
        client.echo(b"after")
        with Client.connect(new) as another:
            another.echo(b"here")
        store.wait_for(f" on {graced.addresses[0]}, {new}")
        assert store.names.count("graced-listeners") == 2
        client.close()
        assert graced.stop() == 0
        assert graced.log.count("no longer listening") == 1


def test_name_without_an_answer_is_served_where_it_was(
    resolver: Resolver, store: FdStore, place: Place
) -> None:
    """A name server that is dead, or has lost the name, is no reason to leave."""
    resolver.knows("127.0.0.2")
    listen = [place.address, f"localhost:{place.port}"]
    with NamedGraced(resolver, *QUICK, listen=listen, env=store.environment) as graced:
        resolver.hosts.write_text("127.0.0.1 localhost\n")
        # A look at the name that is unknown is over when the next one finds it.
        resolver.knows("127.0.0.2", "127.0.0.3")
        graced.log.wait_for(place.found + f"127.0.0.3:{place.port} too")
        for host in ("127.0.0.1", "127.0.0.2", "127.0.0.3"):
            with Client.connect(f"{host}:{place.port}") as client:
                client.echo(b"here")
        assert graced.stop() == 0
        assert not graced.log.count("no longer listening")


def test_name_that_has_moved_is_left_after_a_restart(
    resolver: Resolver, store: FdStore, place: Place
) -> None:
    """The start itself does not wait for the answer."""
    old, new = (f"127.0.0.{n}:{place.port}" for n in (2, 3))
    resolver.knows("127.0.0.2")
    env = store.environment | LEFT_TO_THE_KERNEL
    with NamedGraced(resolver, listen=place.address, env=env) as graced:
        client = graced.served()
        client.echo(b"before")
        graced.signal(SIGUSR2)
        assert graced.wait() == 79
    resolver.hosts.write_text(f"127.0.0.1 localhost\n127.0.0.3 {NAME}\n")
    second = NamedGraced(
        resolver,
        listen=place.address,
        env=store.environment,
        before=PASS,
        pass_fds=store.descriptors,
    )
    with client, second as graced:
        assert graced.addresses == [old]
        graced.log.wait_for(left(old))
        assert refuses(old)
        client.echo(b"after")
        with Client.connect(new) as another:
            another.echo(b"here")
        client.close()
        assert graced.stop() == 0


def test_path_that_somebody_removes_is_there_again(store: FdStore, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with Graced(*QUICK, listen=f"unix:{path}", env=store.environment) as graced:
        client = graced.served()
        client.echo(b"before")
        mode = stat.S_IMODE(path.stat().st_mode)
        path.unlink()
        graced.log.wait_for(f"^<6>serving on unix:{path} now; before: somebody has removed the")
        graced.log.wait_for(left(f"unix:{path}"))
        assert stat.S_IMODE(path.stat().st_mode) == mode
        client.echo(b"after")
        with graced.served() as another:
            another.echo(b"here")
        assert store.names.count("graced-listeners") == 1
        client.close()
        assert graced.stop() == 0
    assert not path.exists()


def test_path_that_another_program_takes_is_waited_for(store: FdStore, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    reason = f"cannot listen on unix:{path}: Address already in use"
    with Graced(*QUICK, listen=f"unix:{path}", env=store.environment) as graced:
        with socket.socket(socket.AF_UNIX) as squatter:
            squatter.bind(f"{path}.new")
            squatter.listen()
            os.rename(f"{path}.new", path)
            graced.log.wait_for(f"^<4>{reason}; trying again")
            store.wait_for(f"; {reason}, trying again")
        graced.log.wait_for(f"^<6>serving on unix:{path} now; before: {reason}")
        with graced.served() as client:
            client.echo(b"here")
        graced.signal(SIGTERM)
        assert graced.wait() == 0
        assert graced.log.count(f"^<4>{reason}") == 1


def test_interface_that_comes_back_with_another_number_is_served() -> None:
    found = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--net", sys.executable, str(INTERFACE)],
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE,
        check=False,
    )
    assert found.returncode == 0, found.stderr
