"""``graced --check-config && systemctl restart graced``: a valid configuration starts."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator

import pytest

from device.service import FAREWELL, HANDED_OVER, UNIT, Service

RECIPE = f"graced --check-config && systemctl restart {UNIT}"
CONFIG = "/etc/graced/conf.d/test-it.toml"
VALID = "graced: configuration is valid, graced.service would serve "


def recipe(graced: Service) -> subprocess.CompletedProcess[str]:
    """The safe recipe of the documentation, as root types it."""
    return graced.device.run("sh", "-c", RECIPE, check=False)


def answers(client: socket.socket) -> bool:
    client.sendall(b"still there?")
    return client.recv(64) == b"still there?"


@pytest.mark.parametrize(
    ("config", "mode", "status", "said"),
    [
        ("[limits]\nmax_clients = 100000\n", 0o644, 78, "max_clients = 100000 needs "),
        ("[limits]\nmax_client = 7\n", 0o644, 78, "unknown key 'limits.max_client'"),
        ("[limits]\nmax_clients = 7\n", 0o600, 78, f"{CONFIG}: Permission denied"),
        ("[server]\nlisten = '*:7'\n", 0o644, 69, "cannot listen on *:7: Permission denied"),
        ("[server]\nlisten = ['*:9999', 'localhost:9999']\n", 0o644, 78, "overlap"),
        ("[server]\nlisten = '127.0.0.1:7777'\n", 0o644, 69, "Address already in use"),
        ("[server]\nlisten = 'unix:/var/lib/socket'\n", 0o644, 69, "Permission denied"),
        ("[server]\nhandler = 'no_such:Handler'\n", 0o644, 78, "/usr/lib/python3/dist-packages"),
        ("[daemon]\npid_file = '/run/other.pid'\n", 0o644, 73, "/run/other.pid: Permission denied"),
    ],
    ids=lambda value: value.split("\n")[1] if isinstance(value, str) and "\n" in value else "",
)
def test_refused_configuration_never_reaches_service(
    graced: Service, taken: None, config: str, mode: int, status: int, said: str
) -> None:
    (client,) = graced.connect()
    pid = graced.pid
    graced.configure(config)
    graced.device.run("chmod", f"{mode:o}", CONFIG)
    done = recipe(graced)
    assert done.returncode == status, done
    assert done.stdout == ""
    assert said in done.stderr
    assert done.stderr.startswith("graced: ")
    assert done.stderr.count("\n") == 1
    assert graced.pid == pid
    assert answers(client)


@pytest.fixture
def taken(graced: Service) -> Iterator[None]:
    """A port of the device that belongs to another program."""
    with graced.device.inside(lambda: socket.create_server(("127.0.0.1", 7777))):
        yield


@pytest.mark.parametrize(
    ("config", "where"),
    [
        ("", "localhost:9999"),
        ("[server]\nlisten = ['*:9999', 'unix:/run/graced/s']\n", "*:9999, unix:/run/graced/s"),
        ("[limits]\nmax_clients = 4000\n", "localhost:9999"),
    ],
    ids=["shipped", "other addresses", "limit"],
)
def test_valid_configuration_is_restarted_and_carries_clients(
    graced: Service, config: str, where: str
) -> None:
    clients = graced.connect(5)
    graced.configure(config)
    done = recipe(graced)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{VALID}{where}\n"
    assert [client for client in clients if not answers(client)] == []
    (handed_over,) = graced.journal(f"MESSAGE_ID={HANDED_OVER}")
    assert handed_over["GRACED_CLIENTS"] == "5"


def test_higher_limit_of_unit_counts_at_once(graced: Service) -> None:
    """The running daemon has the old limit; the next start will have the new one."""
    clients = graced.connect(5)
    graced.drop_in("[Service]\nLimitNOFILE=20000\n")
    graced.configure("[limits]\nmax_clients = 10000\n")
    done = recipe(graced)
    assert (done.returncode, done.stderr) == (0, ""), done
    assert [client for client in clients if not answers(client)] == []


def test_stopped_service_is_checked_too(graced: Service) -> None:
    """The runtime directory does not exist: systemd makes it at the start."""
    graced.configure("[server]\nlisten = 'unix:/run/graced/socket'\n")
    graced.stop()
    assert not graced.device.exists("/run/graced")
    done = graced.device.run("graced", "--check-config", check=False)
    assert (done.returncode, done.stdout) == (0, f"{VALID}unix:/run/graced/socket\n")
    assert not graced.device.exists("/run/graced")


def test_ordinary_user_is_told_of_unchecked_points(graced: Service) -> None:
    as_nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    done = graced.device.run(*as_nobody, "graced", "--check-config", check=False)
    assert (done.returncode, done.stderr) == (0, "")
    first, *notes = done.stdout.splitlines()
    assert first == f"{VALID}localhost:9999"
    assert all(note.startswith("graced: not checked: ") for note in notes)
    assert "graced, the user of graced.service" in notes[0]


def test_user_of_service_may_check_too(graced: Service) -> None:
    """As an upgrade does.  The sandbox hides the sockets of the service from its own user."""
    as_graced = ("setpriv", "--reuid=graced", "--regid=graced", "--init-groups")
    done = graced.device.run(*as_graced, "graced", "--check-config", check=False)
    assert (done.returncode, done.stderr) == (0, "")
    first, *notes = done.stdout.splitlines()
    assert first == f"{VALID}localhost:9999"
    assert [note.split(": ")[2] for note in notes] == ["localhost:9999"]


def test_options_of_unit_are_named(graced: Service) -> None:
    graced.drop_in("[Service]\nExecStart=\nExecStart=/usr/sbin/graced --daemon --grace 7\n")
    done = graced.device.run("graced", "--check-config")
    assert done.stdout.splitlines()[1:] == [
        "graced: not checked: options that graced.service adds: --grace 7"
    ]


@pytest.mark.parametrize(
    "config",
    [
        "[limits]\nmax_client = 7\n",
        "[limits]\nmax_clients = 100000\n",
        "[server]\nlisten = '*:7'\n",
    ],
    ids=["key", "descriptors", "port"],
)
def test_restart_without_check_tells_every_client(graced: Service, config: str) -> None:
    """The daemon tries the next start out, and its clients have the grace period."""
    clients = graced.connect(5)
    graced.configure(config)
    graced.device.systemctl("restart", "--no-block", UNIT)
    for client in clients:
        assert client.recv(64) == FAREWELL
        assert answers(client)
        client.close()
    (record,) = [r for r in graced.journal() if "the next start would fail" in r["MESSAGE"]]
    assert record["GRACED_REASON"]
