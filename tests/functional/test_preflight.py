"""SIGUSR2: the next start is checked in a process of its own before any client is let go.

The service manager of these tests keeps no descriptor: clients are told at every restart, and the
exit status tells a handover (79) from a stop (0).
"""

from __future__ import annotations

import os
import site
import socket
import sys
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from signal import SIGTERM, SIGUSR1, SIGUSR2

import pytest

from support import Client, Daemon, Graced, NotifySocket, reserved_port

HANDED_OVER = 79
STOPPED = 0
TOLD = "^<4>stopping instead of handing over, because the next start would fail: "

# A handler whose import does something else in the check of the next start.
HANDLER = """
import os
from socketserver import BaseRequestHandler

if "GRACED_PREFLIGHT" in os.environ:
    {action}

class Echo(BaseRequestHandler):
    farewell = b"SHUTDOWN"

    def handle(self):
        while data := self.request.recv(65536):
            self.request.sendall(data)

    def save(self):
        return b""

    def restore(self, state):
        pass
"""


def end(graced: Graced | Daemon, client: Client) -> int:
    """Ask for a restart, with a client that leaves at the farewell; return the exit status."""
    graced.signal(SIGUSR2)
    client.expect_farewell_alone()
    client.close()
    return graced.wait()


@pytest.fixture
def modules(tmp_path: Path) -> dict[str, str]:
    """The environment in which a handler is found in `tmp_path`."""
    path = os.pathsep.join([str(Path(__file__).parents[2] / "daemon"), str(tmp_path)])
    return {"PYTHONPATH": path}


def test_sound_configuration_is_handed_over(notify_socket: NotifySocket) -> None:
    with Graced(env=notify_socket.environment) as graced, graced.served() as client:
        assert end(graced, client) == HANDED_OVER
        assert not graced.log.count("<4>stopping instead")
    assert notify_socket.count("STATUS=checking whether the next start would serve") == 1


def test_daemon_is_handed_over(notify_socket: NotifySocket, tmp_path: Path) -> None:
    """A daemon is in /, with a lower hard limit of descriptors, and holds the pidfile."""
    (tmp_path / "relative.toml").write_text("[limits]\nmax_clients = 100\n")
    before = f"import os\nos.chdir({str(tmp_path)!r})"
    options = ("--config", "relative.toml")
    address = f"unix:{tmp_path}/socket"
    env = notify_socket.environment
    with (
        Daemon(*options, before=before, env=env, listen=address) as daemon,
        daemon.served() as client,
    ):
        assert os.readlink(f"/proc/{daemon.pid}/cwd") == "/"
        (tmp_path / "relative.toml").write_text("[limits]\nmax_clients = 300\n")
        assert end(daemon, client) == HANDED_OVER, str(daemon.log)


@pytest.mark.parametrize("handler", ["echo", "echo-threaded"])
@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ("[log]\nlevel = 7\n", "log.level must be one of debug"),
        ("[server]\ncolour = 1\n", "unknown key 'server.colour'"),
        ("[acces]\nallow = []\n", "unknown section 'acces'"),
        ("[server", "not TOML"),
        ("[server]\nhandler = 'no_such:Module'\n", ""),
    ],
    ids=["value", "key", "section", "syntax", "handler"],
)
def test_wrong_configuration_makes_restart_stop(
    handler: str, config: str, reason: str, notify_socket: NotifySocket
) -> None:
    options = () if "handler" in config else ("--handler", handler)
    with (
        Graced(*options, config="[log]", env=notify_socket.environment) as graced,
        graced.served() as client,
    ):
        graced.config_file.write_text(config)
        assert end(graced, client) == STOPPED
        graced.log.wait_for(
            TOLD + (rf".*{graced.config_file}: {reason}" if reason else ".*no_such")
        )


def test_limit_of_descriptors_makes_restart_stop(notify_socket: NotifySocket) -> None:
    before = "import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (4000, 4000))"
    config = "[limits]\nmax_clients = 1000\n"
    env = notify_socket.environment
    with Graced(config=config, before=before, env=env) as graced, graced.served() as client:
        graced.config_file.write_text("[limits]\nmax_clients = 100000\n")
        assert end(graced, client) == STOPPED
        graced.log.wait_for(
            rf"{TOLD}limits.max_clients = 100000 needs \d+ descriptors, but .* 4000$"
        )


def test_raised_soft_limit_is_no_obstacle(notify_socket: NotifySocket) -> None:
    before = "import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (1000, 4000))"
    config = "[limits]\nmax_clients = 800\n"
    env = notify_socket.environment
    with Graced(config=config, before=before, env=env) as graced, graced.served() as client:
        graced.config_file.write_text("[limits]\nmax_clients = 2000\n")
        assert end(graced, client) == HANDED_OVER


# Addresses.


def listen(graced: Graced, *addresses: str) -> None:
    listed = ", ".join(f'"{address}"' for address in addresses)
    graced.config_file.write_text(f"[server]\nlisten = [{listed}]\n")


@pytest.fixture
def configured(notify_socket: NotifySocket, tmp_path: Path) -> Iterator[Graced]:
    """A server on configured addresses: 127.0.0.1 and a path."""
    with reserved_port() as port:
        config = f'[server]\nlisten = ["127.0.0.1:{port}", "unix:{tmp_path}/own"]\n'
        with Graced(config=config, listen=(), env=notify_socket.environment) as graced:
            yield graced


def test_address_in_use_by_another_makes_restart_stop(configured: Graced) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, configured.served() as client:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        listen(configured, configured.addresses[0], address)
        assert end(configured, client) == STOPPED
        configured.log.wait_for(f"{TOLD}cannot listen on {address}: Address already in use$")


def test_path_in_use_by_another_makes_restart_stop(configured: Graced, tmp_path: Path) -> None:
    path = str(tmp_path / "taken")
    with socket.socket(socket.AF_UNIX) as taken, configured.served() as client:
        taken.bind(path)
        taken.listen()
        listen(configured, f"unix:{path}")
        assert end(configured, client) == STOPPED
        configured.log.wait_for(f"{TOLD}cannot listen on unix:{path}: Address already in use$")


def test_path_that_another_program_has_taken_costs_no_client(
    configured: Graced, tmp_path: Path
) -> None:
    """The next start serves the other address, and waits for the path."""
    path = tmp_path / "own"
    path.unlink()
    with socket.socket(socket.AF_UNIX) as other, configured.served() as client:
        other.bind(str(path))
        other.listen()
        assert end(configured, client) == HANDED_OVER


def test_overlapping_addresses_make_restart_stop(configured: Graced) -> None:
    with configured.served() as client:
        port = configured.addresses[0].rpartition(":")[2]
        listen(configured, *configured.addresses, f"*:{port}")
        assert end(configured, client) == STOPPED
        configured.log.wait_for(rf"{TOLD}server.listen: \*:{port} and 127.0.0.1:{port} overlap")


def test_own_address_is_free_for_next_start(configured: Graced, tmp_path: Path) -> None:
    """Also if the next start has to close an inherited listener: 127.0.0.1 becomes *."""
    with configured.served() as client:
        port = configured.addresses[0].rpartition(":")[2]
        listen(configured, f"*:{port}", f"unix:{tmp_path}/own", f"unix:{tmp_path}/new")
        assert end(configured, client) == HANDED_OVER
    assert not (tmp_path / "new").exists()
    assert (tmp_path / "own").exists()


# The check itself.


@pytest.mark.parametrize(
    ("action", "reason"),
    [
        ("raise ValueError('not today')", "handler .* cannot be imported: ValueError: not today"),
        ("os.kill(os.getpid(), 9)", "its check was killed by signal 9$"),
        ("os._exit(3)", "its check ended with status 3$"),
        ("os.execv('/bin/false', ['false'])", "its check ended with status 1$"),
    ],
    ids=["raises", "is killed", "exits", "is another program"],
)
def test_check_that_fails_makes_restart_stop(
    action: str, reason: str, notify_socket: NotifySocket, modules: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "own_handler.py").write_text(HANDLER.format(action=action))
    env = {**modules, **notify_socket.environment}
    with Graced("--handler", "own_handler:Echo", env=env) as graced, graced.served() as client:
        client.echo(b"hello")
        assert end(graced, client) == STOPPED
        graced.log.wait_for(TOLD + reason)
        assert graced.log.count("<4>") == 1


def test_check_that_cannot_be_started_makes_restart_stop(
    notify_socket: NotifySocket, tmp_path: Path
) -> None:
    python = tmp_path / "python3"
    python.symlink_to(os.path.realpath(sys.executable))
    graced = Graced(env={**notify_socket.environment})
    graced.command[0] = str(python)
    graced._env["PYTHONPATH"] += os.pathsep + os.pathsep.join(site.getsitepackages())
    with graced, graced.served() as client:
        python.unlink()
        assert end(graced, client) == STOPPED
        graced.log.wait_for(rf"{TOLD}its check cannot be started: No such file or directory$")


WAITS = "open({fifo!r}).read()"


@pytest.fixture
def waiting(
    notify_socket: NotifySocket, modules: dict[str, str], tmp_path: Path
) -> Iterator[tuple[Graced, FileIO]]:
    """A server with a running check, and the fifo: the check goes on at its end."""
    fifo = str(tmp_path / "fifo")
    os.mkfifo(fifo)
    (tmp_path / "own_handler.py").write_text(HANDLER.format(action=WAITS.format(fifo=fifo)))
    env = {**modules, **notify_socket.environment}
    with Graced("--handler", "own_handler:Echo", env=env) as graced:
        graced.signal(SIGUSR2)
        with FileIO(fifo, "wb") as writer:  # opened when the check has opened it
            yield graced, writer


def test_clients_are_served_while_check_runs(waiting: tuple[Graced, FileIO]) -> None:
    graced, _ = waiting
    with graced.served() as client:
        client.echo(b"hello")
        graced.signal(SIGUSR1)
        graced.log.wait_for("^<6>serving: 1 client")
        graced.signal(SIGUSR2)
        graced.log.wait_for("^<6>SIGUSR2 received, already closing")
        client.echo(b"still served")
        graced.signal(SIGTERM)
        client.expect_farewell_alone()


def test_stop_during_check_wins(waiting: tuple[Graced, FileIO]) -> None:
    graced, writer = waiting
    with graced.served() as client:
        client.echo(b"hello")
        graced.signal(SIGTERM)
        client.expect_farewell_alone()
        client.close()
        assert graced.wait() == STOPPED
        graced.log.wait_for("^<6>SIGTERM received, closing in 5 s, 1 client")
        assert not graced.log.count("^<4>")
    with pytest.raises(BrokenPipeError):  # the check was killed
        writer.write(b"x")


def test_check_that_takes_long_is_waited_for(waiting: tuple[Graced, FileIO]) -> None:
    graced, writer = waiting
    with graced.served() as client:
        client.echo(b"hello")
        writer.close()
        client.expect_farewell_alone()
        client.close()
        assert graced.wait() == HANDED_OVER


COMPUTES = """
    import time
    while time.process_time() < {seconds}:
        pass
"""


@pytest.mark.parametrize(
    ("action", "limits"),
    [(WAITS, "TIMEOUT = 0.5"), (COMPUTES, "TIMEOUT = 0.5; child.PROCESSOR_TIMEOUT = 0.5")],
    ids=["waits", "computes"],
)
def test_check_has_time_limit(
    notify_socket: NotifySocket, modules: dict[str, str], tmp_path: Path, action: str, limits: str
) -> None:
    fifo = str(tmp_path / "fifo")
    os.mkfifo(fifo)
    action = action.format(fifo=fifo, seconds=60)
    graced = impatient(limits, action, tmp_path, {**modules, **notify_socket.environment})
    with graced, graced.served() as client:
        client.echo(b"hello")
        assert end(graced, client) == STOPPED
        graced.log.wait_for(rf"{TOLD}its check has not ended after \d+ s$")


def test_check_on_busy_processor_is_waited_for(
    notify_socket: NotifySocket, modules: dict[str, str], tmp_path: Path
) -> None:
    action = COMPUTES.format(seconds=3)
    limits = "TIMEOUT = 2"
    graced = impatient(limits, action, tmp_path, {**modules, **notify_socket.environment})
    with graced, graced.served() as client:
        client.echo(b"hello")
        assert end(graced, client) == HANDED_OVER


def impatient(limits: str, action: str, tmp_path: Path, env: dict[str, str]) -> Graced:
    """A server that waits less for the check of the next start, whose handler acts at import."""
    (tmp_path / "own_handler.py").write_text(HANDLER.format(action=action))
    graced = Graced("--handler", "own_handler:Echo", env=env)
    program = (
        f"from graced.app import child; child.{limits}; from graced.__main__ import main; main()"
    )
    graced.command[1:3] = ["-c", program]
    return graced


def test_check_inherits_nothing_of_service_manager(
    notify_socket: NotifySocket, modules: dict[str, str], tmp_path: Path
) -> None:
    seen = tmp_path / "seen"
    action = (
        f"open({str(seen)!r}, 'w').write(repr((sorted(os.environ), os.getcwd(), "
        "sorted(os.listdir('/proc/self/fd')))))"
    )
    (tmp_path / "own_handler.py").write_text(HANDLER.format(action=action))
    env = {**modules, **notify_socket.environment, "WATCHDOG_USEC": "60000000"}
    with Graced("--handler", "own_handler:Echo", env=env) as graced, graced.served() as client:
        client.echo(b"hello")
        assert end(graced, client) == HANDED_OVER
    text = seen.read_text()
    for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "LISTEN_FDS"):
        assert name not in text
    assert os.getcwd() in text
