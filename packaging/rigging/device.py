"""What a test sees of a device: files, commands, the journal, units, sockets.

``Device`` is the same for a container, for a virtual machine and for the system that the tests run
on (``LocalDevice``), so that the tests of the rig are also the tests of the installed package.
A kind of device says how to execute a command, how to reach its network and how to connect to
a Unix socket; everything else, files too, is made of commands.
Nothing here waits by sleeping: what is awaited arrives on a journal, bus or socket stream.
"""

import json
import os
import signal
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from rigging.bus import UnitWatch
from rigging.errors import PATIENCE, CommandError, RigError
from rigging.streams import LineStream

T = TypeVar("T")

# A journal record: field to value. A field that the journal holds as bytes is decoded.
Record = dict[str, str]

ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "DEBIAN_FRONTEND": "noninteractive",
}


class Device(ABC):
    """A Debian system with systemd, driven from outside or from within."""

    name: str
    """Of the machine, for people and for test ids."""
    release: str
    """Debian's code name."""

    @abstractmethod
    def command(self, argv: Sequence[str]) -> list[str]:
        """What to execute here so that argv runs on the device, in a clean environment."""

    @abstractmethod
    def inside(self, action: Callable[[], T]) -> T:
        """Call action where 127.0.0.1, for sockets that connect, is the device's loopback."""

    @abstractmethod
    def connect_unix(self, path: str, timeout: float = PATIENCE) -> socket.socket:
        """A connection to a Unix stream socket of the device, with a timeout in seconds on it."""

    # Commands

    def run(
        self, *argv: str, check: bool = True, stdin: str | None = None, timeout: float = 60.0
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as root and return its output.

        Raises CommandError on a non-zero exit status unless check is false, and RigError when
        the command takes longer than timeout seconds.
        """
        with subprocess.Popen(
            self.command(argv),
            stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        ) as process:
            try:
                stdout, stderr = process.communicate(stdin, timeout)
            except subprocess.TimeoutExpired:
                self.end(process)
                raise RigError(f"still running after {timeout:g} s: {' '.join(argv)}") from None
            except BaseException:
                self.end(process)
                raise
        result = subprocess.CompletedProcess(argv, process.returncode, stdout, stderr)
        if check and result.returncode != 0:
            raise CommandError(argv, result)
        return result

    def popen(self, *argv: str) -> subprocess.Popen[bytes]:
        """Start a command with pipes on its standard streams (stderr goes to stdout).

        It has to be ended with ``end``.
        """
        return subprocess.Popen(
            self.command(argv),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            bufsize=0,
            start_new_session=True,
        )

    def end(self, process: subprocess.Popen[Any]) -> None:
        """Kill what ``popen`` started and whatever that has started, and reap it."""
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def python(self, code: str, *args: str, timeout: float = 60.0) -> str:
        """Run a snippet in the device's own Python; returns its standard output."""
        return self.run("python3", "-c", code, *args, timeout=timeout).stdout

    def systemctl(self, *args: str, check: bool = True, timeout: float = 90.0) -> str:
        """Run systemctl; returns its standard output. Errors as for ``run``."""
        return self.run("systemctl", *args, check=check, timeout=timeout).stdout

    def install(self, *debs: Path, options: Iterable[str] = ()) -> None:
        """Install packages with apt, the dependencies being there already."""
        names = []
        for deb in debs:
            names.append(f"/var/tmp/{deb.name}")
            self.copy_to(deb, names[-1])
        argv = ["apt-get", "install", "--yes", "--no-install-recommends", "--allow-downgrades"]
        try:
            self.run(*argv, *options, *names, timeout=300)
        finally:
            self.remove(*names)

    # Files

    def read(self, path: str) -> str:
        """The text of a file."""
        return self.run("cat", path).stdout

    def read_bytes(self, path: str) -> bytes:
        """The bytes of a file."""
        argv = self.command(["cat", path])
        return subprocess.run(argv, stdout=subprocess.PIPE, check=True).stdout

    def write(self, path: str, text: str) -> None:
        """Write a file, world-readable, with the directories that lead to it."""
        self.write_bytes(path, text.encode())

    def write_bytes(self, path: str, data: bytes) -> None:
        """The same for bytes."""
        write = 'mkdir -p "$(dirname "$1")"; cat >"$1"; chmod 644 "$1"'
        subprocess.run(
            self.command(["sh", "-ec", write, "write", path]),
            input=data,
            check=True,
            timeout=60,
            start_new_session=True,
        )

    def copy_to(self, source: Path, path: str) -> None:
        """Copy a file of the host to the device, world-readable."""
        self.write_bytes(path, source.read_bytes())

    def copy_tree(self, source: Path, path: str) -> None:
        """Copy a directory of the host to the device, where it must not exist yet."""
        self.run("mkdir", path)
        argv = ["tar", "--create", f"--directory={source}", "."]
        with subprocess.Popen(argv, stdout=subprocess.PIPE) as pack:
            unpack = self.command(["tar", "--extract", f"--directory={path}"])
            subprocess.run(unpack, stdin=pack.stdout, check=True)
        if pack.returncode != 0:
            raise RigError(f"tar cannot pack {source}")

    def remove(self, *paths: str) -> None:
        """Remove files; one that is not there is no error."""
        self.run("rm", "--force", *paths)

    def exists(self, path: str) -> bool:
        """Whether a file is there; a dangling symbolic link counts."""
        return self.run("stat", path, check=False).returncode == 0

    # Units

    def show(self, unit: str, *properties: str) -> dict[str, str]:
        """Properties of a unit, all of them unless some are named; one that is unset is empty."""
        argv = [f"--property={','.join(properties)}"] if properties else []
        lines = self.systemctl("show", *argv, unit).splitlines()
        found = dict.fromkeys(properties, "")
        found.update((key, value) for key, _, value in (line.partition("=") for line in lines))
        return found

    def watch(self, unit: str) -> UnitWatch:
        """Wait for properties of a unit, which come as ``show`` returns them."""
        bus = self.connect_unix("/run/dbus/system_bus_socket")
        return UnitWatch(bus, unit, lambda: defaultdict(str, self.show(unit)))

    def describe(self, unit: str) -> str:
        """For a report on a failure: the unit's status, its files and the end of its journal."""
        journal = ("journalctl", "--no-pager", "--output=short-precise", f"--unit={unit}")
        commands = (
            ("systemctl", "status", "--no-pager", "--full", "--lines=0", unit),
            ("systemctl", "cat", "--no-pager", unit),
            # Many clients would hide it.
            (*journal, "--lines=20", "--priority=warning"),
            (*journal, "--lines=60"),
        )
        parts = []
        for argv in commands:
            result = self.run(*argv, check=False)
            lines = (result.stdout + result.stderr).splitlines()
            # Comments of unit files, but not the names of the files, would hide what matters.
            lines = [
                line
                for line in lines
                if (line and not line.startswith(("# ", "#\n", ";"))) or line.startswith("# /")
            ]
            parts.append("\n".join((f"[{self.name}] # {' '.join(argv)}", *lines)))
        return "\n".join(parts)

    # The journal

    def cursor(self) -> str:
        """A position behind the newest record."""
        self.run("journalctl", "--sync")
        shown = self.run("journalctl", "--lines=0", "--show-cursor", "--quiet").stdout
        return shown.partition("-- cursor: ")[2].strip()

    def journal(
        self, *matches: str, unit: str | None = None, after: str | None = None
    ) -> list[Record]:
        """The records that match FIELD=VALUE terms and options of journalctl(1), oldest first."""
        self.run("journalctl", "--sync")
        argv = self._journalctl(matches, unit, after)
        records = [_record(line) for line in self.run(*argv).stdout.splitlines()]
        return [record for record in records if record["__CURSOR"] != after]

    def follow(self, *matches: str, unit: str | None = None, after: str) -> "JournalStream":
        """Follow the records behind a cursor, those that are there already included."""
        argv = self._journalctl(matches, unit, after)
        return JournalStream(self.popen(*argv, "--follow", "--no-tail"), self.end, after)

    def _journalctl(self, matches: Sequence[str], unit: str | None, after: str | None) -> list[str]:
        argv = ["journalctl", "--output=json", "--all", "--no-pager", "--quiet", *matches]
        if unit is not None:
            argv.append(f"--unit={unit}")
        if after is not None:
            # Not --after-cursor: systemd 252 then also leaves out the first record that matches,
            # unless that at the cursor matches as well.
            argv.append(f"--cursor={after}")
        return argv

    # The network

    def connect(
        self, port: int, host: str = "127.0.0.1", timeout: float = PATIENCE
    ) -> socket.socket:
        """A TCP connection to the device's loopback, with a timeout in seconds on it."""
        return self.inside(lambda: socket.create_connection((host, port), timeout))


class LocalDevice(Device):
    """The system that the tests run on, for tests of the package as installed there."""

    name = "local"

    def __init__(self) -> None:
        lines = Path("/etc/os-release").read_text().splitlines()
        codename = [line for line in lines if line.startswith("VERSION_CODENAME=")]
        self.release = codename[0].partition("=")[2] if codename else "unknown"

    def command(self, argv: Sequence[str]) -> list[str]:
        """See Device."""
        return ["env", "-i", *(f"{key}={value}" for key, value in ENVIRONMENT.items()), *argv]

    def inside(self, action: Callable[[], T]) -> T:
        """See Device."""
        return action()

    def connect_unix(self, path: str, timeout: float = PATIENCE) -> socket.socket:
        """See Device."""
        return connect_unix(path, timeout)


class JournalStream(LineStream):
    """Records as the journal receives them, those behind a cursor."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        end: Callable[[subprocess.Popen[bytes]], None],
        after: str,
    ) -> None:
        super().__init__(process, end)
        self._after = after

    def until(self, wanted: Callable[[Record], bool], timeout: float = PATIENCE) -> Record:
        """The next wanted record. Raises RigError when none came in timeout seconds."""
        deadline = time.monotonic() + timeout
        seen: list[str] = []
        while True:
            try:
                record = _record(self.line(deadline))
            except RigError as error:
                heard = "\n".join(seen) or "(nothing)"
                raise RigError(
                    f"the awaited record is not in the journal: {error}\n{heard}"
                ) from None
            if record["__CURSOR"] == self._after:
                continue
            if wanted(record):
                return record
            seen.append(record.get("MESSAGE", ""))


def connect_unix(path: str, timeout: float) -> socket.socket:
    """A connection to a Unix stream socket of this host, with a timeout in seconds on it."""
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.settimeout(timeout)
        connection.connect(path)
    except BaseException:
        connection.close()
        raise
    return connection


def _record(line: str) -> Record:
    fields: dict[str, Any] = json.loads(line)
    return {name: _text(value) for name, value in fields.items()}


def _text(value: Any) -> str:
    """A field's value: text, or a list of bytes, or a list of the values of a repeated field."""
    if isinstance(value, list):
        if all(isinstance(item, int) for item in value):
            return bytes(value).decode(errors="replace")
        return "\n".join(_text(item) for item in value)
    return str(value)
