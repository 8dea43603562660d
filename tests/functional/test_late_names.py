"""Host names that cannot be resolved when the service starts.

The daemon runs in a mount namespace with a /etc/hosts of the test's; nobody asks a name server.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from signal import SIGTERM, SIGUSR2
from typing import Any

import pytest

from support import PASS, Client, FdStore, Graced, reserved_port, run_graced
from support.process import LEFT_TO_THE_KERNEL

NAME = "late.graced.test"


class Resolver:
    """What the daemon can resolve."""

    def __init__(self, directory: Path) -> None:
        self.hosts = directory / "hosts"
        self.switch = directory / "nsswitch.conf"
        self.hosts.write_text("127.0.0.1 localhost\n")
        self.switch.write_text("hosts: files\npasswd: files\ngroup: files\n")

    def knows(self, *addresses: str) -> None:
        """Add addresses of the name."""
        with self.hosts.open("a") as file:
            file.writelines(f"{address} {NAME}\n" for address in addresses)

    def command(self, command: list[str]) -> list[str]:
        """The command that runs another with this resolver."""
        mounts = (
            f"mount --bind {ours} /etc/{name}"
            for ours, name in ((self.hosts, "hosts"), (self.switch, "nsswitch.conf"))
        )
        script = f'{" && ".join(mounts)} && exec "$@"'
        namespace = ["unshare", "--user", "--map-root-user", "--mount"]
        return [*namespace, "sh", "-ec", script, "sh", *command]


@pytest.fixture
def resolver(tmp_path: Path) -> Resolver:
    return Resolver(tmp_path)


class NamedGraced(Graced):
    """A daemon with a resolver of its own."""

    def __init__(self, resolver: Resolver, *options: str, **more: Any) -> None:
        super().__init__(*options, **more)
        self.command = resolver.command(self.command)


class Place:
    """Where the name is served, and what the service says of that."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.address = f"{NAME}:{port}"
        self.waiting = f"; waiting for {self.address}"
        self.unresolved = f"^<4>{self.address} cannot be resolved at present"
        self.found = rf"^<6>{self.address} can be resolved, serving on "


@pytest.fixture
def place() -> Iterator[Place]:
    with reserved_port() as port:
        yield Place(port)


def test_late_name_is_served_once_resolved_and_other_addresses_at_once(
    resolver: Resolver, store: FdStore, place: Place
) -> None:
    listen = ["127.0.0.1:0", place.address]
    with NamedGraced(resolver, listen=listen, env=store.environment) as graced:
        with graced.served() as client:
            client.echo(b"hello")
        graced.log.wait_for(place.unresolved)
        store.wait_for(place.waiting)
        resolver.knows("127.0.0.2")
        graced.log.wait_for(place.found + f"127.0.0.2:{place.port} too")
        with Client.connect(f"127.0.0.2:{place.port}") as client:
            client.echo(b"here too")
            graced.signal(SIGTERM)
            client.expect_farewell_alone()
            client.close()
            assert graced.wait() == 0
        assert graced.log.count(place.unresolved) == 1


def test_service_without_any_address_waits(
    resolver: Resolver, store: FdStore, place: Place
) -> None:
    with NamedGraced(resolver, listen=place.address, env=store.environment) as graced:
        store.wait_for(place.waiting)
        graced.log.wait_for("^<6>serving on no address yet")
        resolver.knows("127.0.0.1")
        graced.log.wait_for(place.found)
        with Client.connect(f"127.0.0.1:{place.port}") as client:
            client.echo(b"at last")
        graced.signal(SIGTERM)
        assert graced.wait() == 0


def test_stop_does_not_wait_for_name(resolver: Resolver, store: FdStore, place: Place) -> None:
    with NamedGraced(resolver, listen=place.address, env=store.environment) as graced:
        store.wait_for(place.waiting)
        graced.signal(SIGTERM)
        assert graced.wait() == 0


@pytest.mark.parametrize("others", [[], ["127.0.0.1:0"]], ids=["alone", "beside its own host"])
def test_restart_needs_no_resolver(
    resolver: Resolver, store: FdStore, place: Place, others: list[str]
) -> None:
    """Inherited listeners are used before anything is resolved."""
    resolver.knows("127.0.0.1")
    listen = [place.address, *others]
    env = store.environment | LEFT_TO_THE_KERNEL
    with NamedGraced(resolver, listen=listen, env=env) as graced:
        client = graced.served()
        client.echo(b"before")
        # The name server dies, and so the preflight and the next start know nothing.
        resolver.hosts.write_text("127.0.0.1 localhost\n")
        graced.signal(SIGUSR2)
        assert graced.wait() == 79
    with (
        client,
        NamedGraced(
            resolver,
            listen=listen,
            env=store.environment,
            before=PASS,
            pass_fds=store.descriptors,
        ) as graced,
    ):
        client.echo(b"after")
        store.wait_for(place.waiting)
        # The name gets a second address, which is served too.
        resolver.knows("127.0.0.1", "127.0.0.3")
        graced.log.wait_for(place.found + f"127.0.0.3:{place.port} too")
        for host in ("127.0.0.1", "127.0.0.3"):
            with Client.connect(f"{host}:{place.port}") as another:
                another.echo(b"new")
        client.close()
        graced.signal(SIGTERM)
        assert graced.wait() == 0


def test_restart_with_two_names_at_one_port_says_nothing(
    resolver: Resolver, store: FdStore, place: Place
) -> None:
    """Whose an inherited listener is, nobody knows; all of them are used, and then asked about."""
    resolver.knows("127.0.0.2")
    with resolver.hosts.open("a") as file:
        file.write("127.0.0.3 other.graced.test\n")
    listen = [place.address, f"other.graced.test:{place.port}"]
    more: dict[str, Any] = {"env": store.environment | LEFT_TO_THE_KERNEL, "before": PASS}
    with NamedGraced(resolver, listen=listen, **more) as graced:
        client = graced.served()
        client.echo(b"before")
        graced.signal(SIGUSR2)
        assert graced.wait() == 79
    more["env"] = store.environment
    with client, NamedGraced(resolver, listen=listen, **more, pass_fds=store.descriptors) as graced:
        assert graced.addresses == [f"127.0.0.2:{place.port}", f"127.0.0.3:{place.port}"]
        client.echo(b"after")
        client.close()
        graced.signal(SIGTERM)
        assert graced.wait() == 0
        assert not graced.log.count("^<[0-4]>"), str(graced.log)


def test_name_with_too_many_addresses_is_waited_for(
    resolver: Resolver, store: FdStore, place: Place
) -> None:
    resolver.knows(*(f"127.1.{n // 250}.{n % 250 + 1}" for n in range(3000)))
    listen = [place.address, "127.0.0.1:0"]
    with NamedGraced(resolver, listen=listen, env=store.environment) as graced:
        store.wait_for(place.waiting)
        assert len(graced.addresses) == 1
        resolver.hosts.write_text(f"127.0.0.1 localhost\n127.0.0.2 {NAME}\n")
        graced.log.wait_for(place.found)
        graced.signal(SIGTERM)
        assert graced.wait() == 0


def test_unknown_name_by_hand_is_69(place: Place) -> None:
    found = run_graced("--config", "/dev/null", "--listen", place.address)
    assert found.returncode == 69


def test_impossible_name_is_69(store: FdStore, place: Place) -> None:
    name = "a" * 300 + "\u00e9"
    found = run_graced(
        "--config", "/dev/null", "--listen", f"{name}:{place.port}", env=store.environment
    )
    assert found.returncode == 69
    assert "Traceback" not in found.stderr
