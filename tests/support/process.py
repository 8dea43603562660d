"""A graced that runs: in the foreground (`Graced`) or forked (`Daemon`)."""

from __future__ import annotations

import os
import re
import select
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from signal import SIGKILL, SIGTERM, Signals
from types import TracebackType
from typing import NamedTuple, Self

from graced.log import sinks
from support.client import Client
from support.log import PATIENCE, Log

TESTS = Path(__file__).resolve().parents[1]
CHECKOUT = TESTS.parent
COMMAND = [sys.executable, "-m", "graced"]

_NOT_INHERITED = re.compile(
    r"PYTHON|NOTIFY_|WATCHDOG_|LISTEN_|JOURNAL_STREAM|INVOCATION_ID|SYSTEMD_EXEC_PID"
)
_EXEC = f"\nimport os, sys\nos.execv(sys.executable, {COMMAND!r} + sys.argv[1:])"


LEFT_TO_THE_KERNEL = {"PYTHONWARNINGS": "error,ignore::ResourceWarning"}
"""For the environment of a process that ends with open sockets: by a handover, a failed start."""


def environment(changes: Mapping[str, str] | None = None) -> dict[str, str]:
    """That of the tests, without what a service manager says, in which warnings are errors."""
    kept = {name: value for name, value in os.environ.items() if not _NOT_INHERITED.match(name)}
    kept["PYTHONPATH"] = os.pathsep.join([str(CHECKOUT / "daemon"), str(TESTS)])
    kept["PYTHONWARNINGS"] = "error"
    kept["PYTHONDONTWRITEBYTECODE"] = "1"
    return {**kept, **(changes or {})}


def launch(before: str = "") -> list[str]:
    """The command graced, in a process that runs the Python code `before` and then becomes it."""
    return [sys.executable, "-c", before + _EXEC] if before else COMMAND


def run_graced(
    *options: str,
    before: str = "",
    env: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
    cwd: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    """A graced that is expected to end by itself; what it said is captured."""
    return subprocess.run(
        [*launch(before), *options],
        env=environment(env),
        pass_fds=pass_fds,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def wait_for_end(pid: int, within: float = PATIENCE) -> int:
    """Wait until an orphan of ours has ended; return its status, or the negative signal number."""
    ended = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(ended, select.POLLIN)
        in_time = bool(poll.poll(within * 1000))
        if not in_time:
            os.kill(pid, SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    finally:
        os.close(ended)
    assert in_time, f"process {pid} had not ended after {within:g} s"
    return status


class Stopped(NamedTuple):
    """What the last line of the log says."""

    seconds: float
    """From the first signal on."""
    left: int
    """Clients that departed."""
    closed: int
    """Clients that were closed at the deadline."""


class _Running:
    """What is the same of both kinds."""

    log: Log
    pid: int

    def __init__(
        self,
        *options: str,
        listen: str | Sequence[str] = "127.0.0.1:0",
        config: str = "",
        env: Mapping[str, str] | None = None,
        before: str = "",
        pass_fds: Sequence[int] = (),
    ) -> None:
        """`listen`: addresses, or none; `config`: the text of the only file that is read;
        `env`: changes to the environment; `before`: see `launch`.
        """
        self.tracebacks = False
        """Whether the log may have a traceback in it."""
        self._unix_clients = 0
        self._belongings = ExitStack()
        self._directory = Path(
            self._belongings.enter_context(tempfile.TemporaryDirectory(prefix="graced-"))
        )
        self.config_file = self._directory / "graced.toml"
        self.config_file.write_text(config)
        listen = [listen] if isinstance(listen, str) else listen
        addresses = [word for address in listen for word in ("--listen", address)]
        self.command = [*launch(before), "--config", str(self.config_file), *addresses, *options]
        self._env = environment(env)
        self._pass_fds = pass_fds

    def __enter__(self) -> Self:
        try:
            self._start()
            # Not of `STARTED` alone: a handler may talk before.
            self.log.wait_for(r"serving on (.*) with pid (\d+)$")
        except BaseException as error:
            self.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        failure: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        with self._belongings:
            self._end()
        if failure is not None:
            failure.add_note(f"the log of {' '.join(self.command[1:])}:\n{self.log}")
        else:
            assert self.tracebacks or not self.log.count("Traceback"), str(self.log)

    def _start(self) -> None:
        raise NotImplementedError

    def _end(self) -> None:
        raise NotImplementedError

    @property
    def addresses(self) -> list[str]:
        """Where it serves."""
        return self.log.wait_for(r"serving on (.*) with pid \d+$")[1].split(", ")

    def connect(self, number: int = 0, *, receive_buffer: int = 0) -> Client:
        """A new client, of the address with that number."""
        client = Client.connect(self.addresses[number], receive_buffer=receive_buffer)
        self._unix_clients += client.sock.family == socket.AF_UNIX
        return client

    def served(self, number: int = 0) -> Client:
        """A new client, which is known to have been accepted.

        The name of a Unix client is not known here: each that has connected has to be in the log.
        """
        client = self.connect(number)
        if client.sock.family == socket.AF_UNIX:
            self.log.wait_for("<6>connection from unix:", self._unix_clients)
        else:
            self.log.wait_for(f"<6>connection from {re.escape(client.name)}$")
        return client

    def signal(self, signum: Signals) -> None:
        os.kill(self.pid, signum)

    def wait(self, within: float = PATIENCE) -> int:
        """Wait for its end and return its status, or the negative number of a signal."""
        raise NotImplementedError

    def stop(self, signum: Signals = SIGTERM) -> int:
        """Send a signal and wait for the end."""
        self.signal(signum)
        return self.wait()

    @property
    def stopped(self) -> Stopped:
        """How it went, after `wait`."""
        match = self.log.wait_for(
            r"stopped after ([\d.]+) s: (\d+) clients? departed,"
            r" (\d+) closed at the deadline$"
        )
        return Stopped(float(match[1]), int(match[2]), int(match[3]))


class Graced(_Running):
    """In the foreground: entered when it serves, killed at the end if it still runs."""

    process: subprocess.Popen[bytes]

    def _start(self) -> None:
        read, write = os.pipe()
        try:
            self.process = subprocess.Popen(
                self.command,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=write,
                stderr=write,
                pass_fds=self._pass_fds,
            )
        except BaseException:
            os.close(read)
            raise
        finally:
            os.close(write)
        self.pid = self.process.pid
        self.log = Log.of_pipe(read)

    def _end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(PATIENCE)
        self.log.close()

    def wait(self, within: float = PATIENCE) -> int:
        status = self.process.wait(within)
        self.log.close()
        return status


def without_a_log() -> str:
    """The words of ``--daemon`` on a stderr that the daemon does not keep, on this machine."""
    if any(map(os.path.exists, (sinks.JOURNAL_SOCKET, sinks.SYSLOG_SOCKET))):
        return ""
    return "graced: log: none (no journal, no syslog); 2>FILE writes one\n"


class Daemon(_Running):
    """Forked with ``--daemon``; its log is a file.

    The tests must have been made the parent of orphans, as the fixture of tests/conftest.py does.
    """

    command_pid: int
    """Of the command that was typed, which has ended."""

    def __init__(
        self,
        *options: str,
        listen: str | Sequence[str] = "127.0.0.1:0",
        config: str = "",
        env: Mapping[str, str] | None = None,
        before: str = "",
        pass_fds: Sequence[int] = (),
    ) -> None:
        super().__init__(
            "--daemon",
            *options,
            listen=listen,
            config=config,
            env=env,
            before=before,
            pass_fds=pass_fds,
        )
        self.pid_file = self._directory / "graced.pid"
        self.log_file = self._directory / "log"
        self.command += ["--pid-file", str(self.pid_file)]
        self._status: int | None = None

    def _start(self) -> None:
        self.pid = 0
        with self.log_file.open("wb") as log:
            self.log = Log.of_file(self.log_file)
            command = subprocess.Popen(
                self.command,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=self._pass_fds,
            )
        self.command_pid = command.pid
        try:
            status = command.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            command.kill()
            command.wait()
            raise
        assert status == 0, str(self.log)
        # It is empty where the daemon cannot write it, and goes on.
        self.pid = int(self.pid_file.read_text() or self.log.wait_for(r" with pid (\d+)$")[1])

    def _end(self) -> None:
        if self.pid and self._status is None:
            os.kill(self.pid, SIGKILL)
            self.wait()
        self.log.close()

    def wait(self, within: float = PATIENCE) -> int:
        if self._status is None:
            self._status = wait_for_end(self.pid, within)
            self.log.close()
        return self._status


def status_field(pid: int, name: str) -> str:
    """A field of /proc/PID/status, as it stands there; raises OSError where the process is gone."""
    match = re.search(rf"^{name}:\s*(.*)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert match
    return match[1]
