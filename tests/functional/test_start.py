"""Starting in the foreground: what is refused, with which status, and what is no obstacle."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from graced import __version__
from support import (
    CHECKOUT,
    PATIENCE,
    Client,
    Graced,
    NotifySocket,
    environment,
    launch,
    run_graced,
)

NOWHERE = ("--config", "/dev/null", "--listen", "127.0.0.1:0")


def complaint(found: subprocess.CompletedProcess[str]) -> str:
    """The one line that says why."""
    assert not found.stdout
    match = re.fullmatch(r"graced: (.+)\n", found.stderr)
    assert match, found.stderr
    return match[1]


def test_immediate_restart_gets_same_port() -> None:
    """Connections that the server has closed linger (TIME_WAIT) and are no obstacle."""
    listen = "127.0.0.1:0"
    for _ in range(3):
        with Graced("--grace", "0", listen=listen) as graced, graced.connect() as client:
            client.echo(b"hello")
            (listen,) = graced.addresses
            assert graced.stop() == 0
            client.recv_to_end()


def test_port_in_use_is_69() -> None:
    with Graced() as graced:
        (address,) = graced.addresses
        found = run_graced("--config", "/dev/null", "--listen", address)
        assert found.returncode == 69
        assert complaint(found) == f"cannot listen on {address}: Address already in use"
        with graced.connect() as client:
            client.echo(b"hello")


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("unix:/no/such/directory/socket", "No such file or directory"),
        ("no.such.host.invalid:9999", r".*"),
    ],
)
def test_address_that_is_not_ours_is_69(address: str, reason: str) -> None:
    found = run_graced("--config", "/dev/null", "--listen", address)
    assert found.returncode == 69
    assert re.fullmatch(f"cannot listen on {re.escape(address)}: {reason}", complaint(found))


def test_one_bad_address_among_good_ones_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    found = run_graced(
        "--config", "/dev/null", "--listen", f"unix:{path}", "--listen", "unix:/nonexistent/socket"
    )
    assert found.returncode == 69
    assert not path.exists()


# The pidfile.


def test_pidfile_has_pid_and_is_removed(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    with Graced("--pid-file", str(file)) as graced:
        assert file.read_text() == f"{graced.pid}\n"
        assert graced.stop() == 0
    assert not file.exists()


def test_in_foreground_there_is_no_pidfile_unless_asked_for(tmp_path: Path) -> None:
    config = f"[daemon]\npid_file = '{tmp_path}/pid'"
    with Graced(config=config) as graced:
        assert graced.stop() == 0
        assert not (tmp_path / "pid").exists()


def test_second_instance_is_75(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    with Graced("--pid-file", str(file)) as graced:
        found = run_graced(*NOWHERE, "--pid-file", str(file))
        assert found.returncode == 75
        assert complaint(found) == f"already running with pid {graced.pid}: {file} is locked"
        assert file.read_text() == f"{graced.pid}\n"
        with graced.connect() as client:
            client.echo(b"hello")


def test_pidfile_of_killed_server_is_no_obstacle(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    with Graced("--pid-file", str(file)) as graced:
        assert graced.stop(signal.SIGKILL) == -signal.SIGKILL
    assert file.exists()
    with Graced("--pid-file", str(file)) as graced:
        assert file.read_text() == f"{graced.pid}\n"


@pytest.mark.parametrize("text", ["", "999999999\n", "-1\n", "garbage\n", "1" * 5000, "0\n"])
def test_content_of_pidfile_is_no_obstacle(text: str, tmp_path: Path) -> None:
    file = tmp_path / "pid"
    file.write_text(text)
    with Graced("--pid-file", str(file)) as graced:
        assert file.read_text() == f"{graced.pid}\n"
        assert graced.stop() == 0
    assert not file.exists()


def test_foreign_process_in_pidfile_is_untouched(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as foreign:
        file.write_text(f"{foreign.pid}\n")
        with Graced("--pid-file", str(file)) as graced:
            assert graced.stop() == 0
        heard, _ = foreign.communicate(b"alive", timeout=PATIENCE)
        assert heard == b"alive"
        assert foreign.returncode == 0


def test_pidfile_that_another_has_taken_over_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    with Graced("--pid-file", str(file)) as graced:
        file.unlink()
        file.write_text("of another\n")
        assert graced.stop() == 0
    assert file.read_text() == "of another\n"


@pytest.mark.parametrize("kind", ["missing", "directory", "link", "fifo", "full"])
def test_pidfile_that_cannot_be_written_is_73(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "pid"
    before = ""
    if kind == "missing":
        file = tmp_path / "missing" / "pid"
    elif kind == "directory":
        file.mkdir()
    elif kind == "link":
        (tmp_path / "precious").write_text("precious")
        file.symlink_to(tmp_path / "precious")
    elif kind == "fifo":
        os.mkfifo(file)
    elif kind == "full":
        before = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))"
    found = run_graced(*NOWHERE, "--pid-file", str(file), before=before)
    assert found.returncode == 73
    said = found.stderr.splitlines()[-1]
    assert said.startswith(f"graced: cannot write pidfile {file}: ")
    if kind == "link":
        assert (tmp_path / "precious").read_text() == "precious"


def test_pidfile_in_world_writable_directory_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)
    found = run_graced(*NOWHERE, "--pid-file", str(tmp_path / "pid"))
    assert found.returncode == 73
    assert "everybody may write to" in complaint(found)


# The configuration.


def test_shipped_configuration_is_valid_and_says_nothing_new() -> None:
    found = run_graced("--check-config", "--config", str(CHECKOUT / "etc" / "graced.toml"))
    assert (found.returncode, found.stderr) == (0, "")
    defaults = run_graced("--check-config", "--config", "/dev/null")
    assert found.stdout == defaults.stdout
    assert "localhost:9999" in found.stdout
    assert found.stdout.count("\n") == 1


def test_shipped_configuration_is_valid_with_every_line_in_force(tmp_path: Path) -> None:
    shipped = (CHECKOUT / "etc" / "graced.toml").read_text()
    file = tmp_path / "all.toml"
    file.write_text(re.sub(r"^#(?=\w+ = )", "", shipped, flags=re.M))
    assert "\nlisten" in file.read_text()
    found = run_graced("--check-config", "--config", str(file))
    assert (found.returncode, found.stderr) == (0, "")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[server]\ncolour = 1", "unknown key 'server.colour', allowed in [server] are listen"),
        ("[servers]\nlisten = 1", "unknown section 'servers', allowed are access, continuity"),
        ("server = 1", "server must be a section, not 1"),
        ("[shutdown]\ngrace_period = '5'", "shutdown.grace_period must be a number of seconds"),
        ("[shutdown]\ngrace_period = true", "shutdown.grace_period must be a number of seconds"),
        ("[shutdown]\ngrace_period = -1", "shutdown.grace_period must be from 0 to 86400 seconds"),
        ("[shutdown]\ngrace_period = nan", "shutdown.grace_period must be from 0 to 86400 seconds"),
        ("[limits]\nmax_clients = 0", "limits.max_clients must be from 1 to 1000000, not 0"),
        ("[limits]\nmax_clients = 1.5", "limits.max_clients must be a whole number, not 1.5"),
        ("[server]\nlisten = []", "server.listen must be an address or a list of addresses"),
        ("[server]\nlisten = 'localhost'", "server.listen must be HOST:PORT, [IPV6]:PORT"),
        ("[log]\nlevel = 'loud'", "log.level must be one of debug, info, warning, error"),
        ("[log]\nconnections = 1", "log.connections must be true or false, not 1"),
        ("[server\n", "not TOML: "),
        ("[server]\nlisten = 'a:1'\nlisten = 'b:2'", "not TOML: "),
        ("\udcff", "not UTF-8 at byte 0"),
    ],
)
@pytest.mark.parametrize("options", [(), ("--check-config",)], ids=["start", "check"])
def test_wrong_configuration_is_78_and_names_file_and_key(
    text: str, said: str, options: tuple[str, ...], tmp_path: Path
) -> None:
    file = tmp_path / "wrong.toml"
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    found = run_graced("--config", str(file), *options)
    assert found.returncode == 78
    assert complaint(found).startswith(f"{file}: {said}")


def test_file_that_is_named_must_exist(tmp_path: Path) -> None:
    found = run_graced("--config", str(tmp_path / "missing.toml"))
    assert found.returncode == 78
    assert complaint(found) == f"{tmp_path}/missing.toml: No such file or directory"


def test_options_come_last() -> None:
    config = "[shutdown]\ngrace_period = 600\n[server]\nlisten = 'no.such.host.invalid:9999'"
    with Graced("--grace", "1", config=config) as graced, graced.served() as client:
        assert graced.stop() == 0
        client.recv_to_end()
        assert graced.log.count("SIGTERM received, closing in 1 s")


@pytest.mark.parametrize(
    "options",
    [
        ("--no-such-option",),
        ("surplus",),
        ("--grace", "soon"),
        ("--grace", "-1"),
        ("--grace", "inf"),
        ("--grac", "1"),
        ("--listen", "nowhere"),
        ("--listen", "127.0.0.1:65536"),
        ("--log-level", "loud"),
    ],
    ids=" ".join,
)
def test_wrong_command_line_is_2(options: tuple[str, ...]) -> None:
    found = run_graced("--config", "/dev/null", *options)
    assert found.returncode == 2
    assert complaint(found)


def test_help_and_version() -> None:
    found = run_graced("--version")
    assert (found.returncode, found.stdout, found.stderr) == (0, f"graced {__version__}\n", "")
    found = run_graced("--help")
    assert (found.returncode, found.stderr) == (0, "")
    assert "--check-config" in found.stdout


def test_check_config_opens_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        found = run_graced("--check-config", "--config", "/dev/null", "--listen", address)
    assert (found.returncode, found.stderr) == (0, "")
    assert address in found.stdout


# Where it is started.


def test_daemon_runs_without_standard_streams(tmp_path: Path, notify_socket: NotifySocket) -> None:
    """As some supervisors start programs: 0, 1 and 2 are closed."""
    address = f"unix:{tmp_path}/socket"
    process = subprocess.Popen(
        [
            *launch("import os\nfor fd in (0, 1, 2):\n    os.close(fd)"),
            *("--config", "/dev/null", "--listen", address),
        ],
        env=environment(notify_socket.environment),
    )
    try:
        notify_socket.wait_for("READY=1")
        with Client.connect(address) as client:
            client.echo(b"hello")
            process.terminate()
            client.expect_farewell_alone()
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
        process.wait()


@contextmanager
def piped() -> Iterator[tuple[str, int]]:
    """A server whose log is a pipe, then its end; gives its address, and the pipe to read from."""
    read, write = os.pipe()
    process = subprocess.Popen(
        [*launch(), "--config", "/dev/null", "--listen", "127.0.0.1:0", "--grace", "1"],
        env=environment(),
        stderr=write,
    )
    os.close(write)
    try:
        match = re.search(r"serving on (\S+) with", os.read(read, 4096).decode())
        assert match
        yield match[1], read
        process.terminate()
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
        process.wait()


def test_unread_log_stops_nothing() -> None:
    """Ctrl-S in a terminal, a full pipe: the echo goes on and so does the end."""
    with piped() as (address, pipe):
        for _ in range(2000):
            with Client.connect(address) as client:
                client.echo(b"hello")
    os.close(pipe)


def test_log_whose_reader_has_gone_stops_nothing() -> None:
    with piped() as (address, pipe):
        os.close(pipe)
        for _ in range(10):
            with Client.connect(address) as client:
                client.echo(b"hello")


def test_module_can_be_called_as_function() -> None:
    code = "import sys, graced.app.cli\ngraced.app.cli.main(['--version'])"
    found = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True
    )
    assert found.stdout == f"graced {__version__}\n"


@pytest.mark.parametrize("kind", ["read-only", "full"])
def test_runtime_directory_that_takes_no_file_is_one_line(kind: str, tmp_path: Path) -> None:
    """A file system that is mounted read-only after an error, and one without an inode left."""
    options = "mode=755," + ("ro" if kind == "read-only" else "nr_inodes=1")
    mount = f'mount -t tmpfs -o {options} none "$0" && exec "$@"'
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, str(tmp_path)]
    found = subprocess.run(
        [
            *(*command, *launch(), "--daemon", "--config", "/dev/null"),
            *("--listen", "127.0.0.1:0", "--pid-file", f"{tmp_path}/pid"),
        ],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    reason = "Read-only file system" if kind == "read-only" else "No space left on device"
    assert (found.returncode, found.stderr) == (
        73,
        f"graced: cannot write pidfile {tmp_path}/pid: {reason}\n",
    )


def test_garbage_is_collected_again_after_imports() -> None:
    """The objects of the imports are out of the reach of collections, which go on."""
    code = "import gc, graced.__main__; print(gc.isenabled(), gc.get_freeze_count() > 10_000)"
    found = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True
    )
    assert found.stdout == "True True\n"
