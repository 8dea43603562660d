"""A start that is refused tells the inherited clients.

systemd does not try again after these exit statuses, and closes the stored descriptors.
"""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from graced.handover.fd_bundle import FdBundle
from graced.handover.fdstore import MIRRORED
from support import CHECKOUT, FAREWELL, PATIENCE, environment

TESTS = CHECKOUT / "tests"

# A process that becomes graced with a bundle of clients on descriptor 3.
BECOME = """
import os, sys
os.environ["LISTEN_PID"] = str(os.getpid())
os.dup2(int(os.environ.pop("PASSED")), 3)
os.execv(sys.executable, [sys.executable, "-m", "graced", *sys.argv[1:]])
"""


@pytest.fixture
def client() -> Iterator[tuple[socket.socket, int]]:
    """A client of the last process, and the descriptor of a bundle with the client."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname(), PATIENCE) as theirs,
    ):
        with server.accept()[0] as ours:
            bundle = FdBundle()
            assert bundle.put([ours.fileno()])
        passed = fcntl.fcntl(bundle.receiver, fcntl.F_DUPFD_CLOEXEC, 100)
        bundle.close()
        try:
            yield theirs, passed
        finally:
            os.close(passed)


def start(passed: int, *arguments: str, path: Path = TESTS) -> subprocess.CompletedProcess[str]:
    """A start with the bundle; modules are also looked for in `path`."""
    names = {"LISTEN_FDS": "1", "LISTEN_FDNAMES": MIRRORED, "PASSED": str(passed)}
    return subprocess.run(
        [sys.executable, "-c", BECOME, *arguments],
        env=environment({**names, "PYTHONPATH": f"{CHECKOUT / 'daemon'}:{path}"}),
        pass_fds=[passed],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def heard(client: socket.socket) -> bytes:
    data = b""
    while more := client.recv(64):
        data += more
    return data


class Refusal(NamedTuple):
    """A reason to refuse a start; ``{directory}`` is a directory of the test."""

    name: str
    status: int
    config: str = ""
    options: tuple[str, ...] = ()


REFUSALS = [
    Refusal("usage", 2, options=("--no-such-option",)),
    Refusal("option", 2, options=("--grace", "-1")),
    Refusal("key", 78, config="[server]\ncolour = 1"),
    Refusal("value", 78, config="[limits]\nmax_clients = 'many'"),
    Refusal("syntax", 78, config="[limits"),
    Refusal("missing file", 78, options=("--config", "/nonexistent")),
    Refusal("descriptors", 78, config="[limits]\nmax_clients = 1000000"),
    Refusal("overlap", 78, options=("--listen", "127.0.0.1:1", "--listen", "*:1")),
    Refusal("directory", 69, options=("--listen", "unix:/nonexistent/socket")),
    Refusal("pidfile", 73, options=("--pid-file", "/nonexistent/pid")),
]


def prepare(refusal: Refusal, directory: Path) -> list[str]:
    config = directory / "graced.toml"
    config.write_text(refusal.config)
    return ["--config", str(config), "--pid-file", str(directory / "pid"), *refusal.options]


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: refusal.name)
@pytest.mark.parametrize("options", [(), ("--daemon",)], ids=["foreground", "daemon"])
def test_refused_start_tells_inherited_clients(
    refusal: Refusal,
    options: tuple[str, ...],
    client: tuple[socket.socket, int],
    tmp_path: Path,
) -> None:
    theirs, passed = client
    found = start(passed, *options, *prepare(refusal, tmp_path))
    assert found.returncode == refusal.status, found
    assert found.stderr.count("\n") == 1
    assert heard(theirs) == FAREWELL


def test_running_instance_refuses_and_tells(
    client: tuple[socket.socket, int], tmp_path: Path
) -> None:
    theirs, passed = client
    with (tmp_path / "pid").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        found = start(passed, "--config", "/dev/null", "--pid-file", str(tmp_path / "pid"))
    assert found.returncode == 75
    assert heard(theirs) == FAREWELL


# A full disk, from the fork on.
LIMITED = """
import resource
from graced.handlers.echo import EchoHandler

class Telling(EchoHandler):
    farewell = b"SHUTDOWN"

resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
"""


def test_daemon_that_cannot_write_its_pidfile_tells(
    client: tuple[socket.socket, int], tmp_path: Path
) -> None:
    """The daemon is refused here, and not the command."""
    theirs, passed = client
    (tmp_path / "limited.py").write_text(LIMITED)
    found = start(
        passed,
        *("--daemon", "--config", "/dev/null", "--pid-file", str(tmp_path / "pid")),
        *("--listen", "127.0.0.1:0", "--handler", "limited:Telling"),
        path=tmp_path,
    )
    assert found.returncode == 73, found
    assert heard(theirs) == FAREWELL


def test_farewell_of_refused_configuration_is_salvaged(
    client: tuple[socket.socket, int], tmp_path: Path
) -> None:
    theirs, passed = client
    refusal = Refusal("", 78, config="[shutdown]\nfarewell = 'BYE'\n[server]\ncolour = 1")
    assert start(passed, *prepare(refusal, tmp_path)).returncode == refusal.status
    assert heard(theirs) == b"BYE"


def test_no_farewell_in_unknown_protocol(client: tuple[socket.socket, int], tmp_path: Path) -> None:
    """Of a handler that cannot be imported clients get the end of the stream, and no text."""
    theirs, passed = client
    refusal = Refusal("", 78, config="[server]\nhandler = 'no_such_module:Handler'")
    assert start(passed, *prepare(refusal, tmp_path)).returncode == refusal.status
    assert heard(theirs) == b""


@pytest.mark.parametrize(
    "handler",
    [
        "robustness.handlers:ForkFails1",
        "support.foreign_code:FailingHookHandler",
        "support.foreign_code:ExitingHookHandler",
    ],
)
def test_failure_that_may_pass_leaves_clients_alone(
    client: tuple[socket.socket, int], tmp_path: Path, handler: str
) -> None:
    """systemd tries again after status 1: the next start still finds the clients."""
    theirs, passed = client
    found = start(
        passed,
        *("--daemon", "--config", "/dev/null", "--pid-file", str(tmp_path / "pid")),
        *("--listen", "127.0.0.1:0", "--handler", handler),
    )
    assert found.returncode == 1, found
    theirs.setblocking(False)
    with pytest.raises(BlockingIOError):
        theirs.recv(1)
