r"""A service for the tests of a handler: started on a free port, restarted, stopped.

`Service` starts a graced in a process of its own, as a service manager does, and has the
descriptor store that a restart needs::

    with Service(Upper, options={"prefix": "> "}) as service, service.connect() as client:
        client.sendall(b"hello\n")
        assert client.recv(100) == b"> HELLO\n"
        service.restart()
        client.sendall(b"again\n")
        assert client.recv(100) == b"> AGAIN\n"
        service.begin_stop()
        assert client.recv(100) == b""
        client.close()
        assert service.wait() == 0
        assert not service.failures

No program imports this module.
"""

from __future__ import annotations

import array
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from graced.app.configuration import HANDLER, key_in_toml, literal
from graced.errors import HANDED_OVER

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

TIMEOUT = 60.0
"""Seconds in which anything must happen that a test waits for."""

_BEGIN = """
import fcntl, os, runpy, sys
passed = [int(fd) for fd in os.environ.pop("GRACED_TESTING_PASSED", "").split()]
if passed:
    first = 3 + len(passed)
    copies = [fcntl.fcntl(fd, fcntl.F_DUPFD, first) for fd in passed]
    for fd in passed:
        os.close(fd)
    for number, fd in enumerate(copies, 3):
        os.dup2(fd, number)
        os.close(fd)
    os.environ["LISTEN_PID"] = str(os.getpid())
runpy.run_module("graced", run_name="__main__", alter_sys=True)
"""
"""What a service manager does before it executes the program."""
_MANAGERS = (
    *("NOTIFY_SOCKET", "LISTEN_", "WATCHDOG_", "JOURNAL_STREAM"),
    *("RUNTIME_DIRECTORY", "STATE_DIRECTORY"),
)
"""Variables of the service manager of the tests themselves."""
_MOST_DESCRIPTORS = 253
"""In one message (SCM_MAX_FD)."""


class ServiceError(Exception):
    """The service has not started, has not ended in time, or could not be restarted."""


class Service:
    """A graced with one handler, for a test.  A context manager; for one thread."""

    def __init__(
        self,
        handler: str | Callable[..., Any],
        *,
        options: Mapping[str, Any] | None = None,
        config: str = "",
        state_directory: Path | str | None = None,
        grace: float = 5.0,
    ) -> None:
        """Nothing is started yet.

        `handler`: a name as in the configuration, or the class or function, in a module that a new
        process can import by the `sys.path` of this one.  Raises `TypeError` for an object that
        does not know its name, as a `functools.partial`.

        `options`: the section ``[handler]``; `config`: other sections, as TOML.  `grace`: the grace
        period in seconds.
        """
        if not isinstance(handler, str) and not hasattr(handler, "__qualname__"):
            raise TypeError(f"the handler must be given by its name, 'MODULE:NAME': {handler}")
        name = (
            handler if isinstance(handler, str) else f"{handler.__module__}:{handler.__qualname__}"
        )
        self._arguments = ["--handler", name, "--grace", str(grace)]
        lines = [f"{key_in_toml(key)} = {literal(value)}" for key, value in (options or {}).items()]
        self._config = "\n".join([config, f"[{HANDLER}]", *lines, ""])
        self._state = str(state_directory) if state_directory else None
        self._port = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._log: list[str] = []
        self._readers: list[threading.Thread] = []
        self._over = False
        """Whether the log of this process has ended."""
        self._changed = threading.Condition()

    def __enter__(self) -> Self:
        self._directory = tempfile.TemporaryDirectory(prefix="graced-")
        self._store = _Store(f"{self._directory.name}/notify")
        self._file = Path(self._directory.name, "graced.toml")
        self._file.write_text(self._config, encoding="utf-8")
        try:
            self._start()
        except BaseException:
            self._clean_up()
            raise
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self._clean_up()

    def _clean_up(self) -> None:
        """End the process at once, however the test has gone."""
        if self._process:
            self._process.kill()
            self._process.wait()
        self._store.close()
        for reader in self._readers:
            reader.join()
        self._directory.cleanup()

    # The process.

    def _start(self) -> None:
        names, descriptors = self._store.contents()
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith(_MANAGERS)
        }
        environment["NOTIFY_SOCKET"] = self._store.path
        environment["PYTHONPATH"] = os.pathsep.join(os.path.abspath(path) for path in sys.path)
        if self._state:
            environment["STATE_DIRECTORY"] = self._state
        if descriptors:
            environment["LISTEN_FDS"] = str(len(descriptors))
            environment["LISTEN_FDNAMES"] = ":".join(names)
            environment["GRACED_TESTING_PASSED"] = " ".join(map(str, descriptors))
        address = f"127.0.0.1:{self._port}"
        given = ["--config", str(self._file), "--listen", address, *self._arguments]
        self._process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-c", _BEGIN, *given],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=environment,
            pass_fds=descriptors,
        )
        begin = len(self._log)
        self._over = False
        reader = threading.Thread(target=self._read, args=(self._process,), daemon=True)
        self._readers.append(reader)
        reader.start()
        started = self._await_line(r"serving on 127\.0\.0\.1:(\d+)", begin)
        self._port = int(started[1])

    def _read(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stderr
        with process.stderr as stream:
            for line in stream:
                with self._changed:
                    self._log.append(line.decode("utf-8", "replace").rstrip("\n"))
                    self._changed.notify_all()
        with self._changed:
            self._over = True
            self._changed.notify_all()

    def _await_line(self, pattern: str, begin: int) -> re.Match[str]:
        """The first match in a line from the line `begin` on, until this process has ended."""

        def matches() -> list[re.Match[str]]:
            return [match for line in self._log[begin:] if (match := re.search(pattern, line))]

        with self._changed:
            self._changed.wait_for(lambda: matches() or self._over, TIMEOUT)
            if found := matches():
                return found[0]
        raise ServiceError(f"no line {pattern!r} in:\n" + "\n".join(self._log[begin:]))

    def _signal(self, signum: signal.Signals) -> None:
        assert self._process
        self._process.send_signal(signum)

    def restart(self) -> None:
        """Restart the service, as ``systemctl restart`` does; return when it serves again.

        Clients of a handler that can save its state stay connected.  The others are told, and the
        restart waits for them, for the grace period at most.  Raises `ServiceError` where the next
        start would fail, and clients were told instead.
        """
        begin = len(self._log)
        self._signal(signal.SIGUSR2)
        if (status := self.wait()) != HANDED_OVER:
            lines = "\n".join(self._log[begin:])
            raise ServiceError(f"no restart, but a stop with exit status {status}:\n{lines}")
        self._start()

    def begin_stop(self) -> None:
        """Send SIGTERM, as ``systemctl stop`` does: the clients are told, and the drain begins."""
        self._signal(signal.SIGTERM)

    def end_grace_period(self) -> None:
        """Close the remaining clients now.  After `begin_stop`."""
        self._await_line("SIGTERM received", 0)
        self._signal(signal.SIGINT)

    def wait(self) -> int:
        """Wait for the end of the process; return its exit status.

        Raises `ServiceError` where it does not end.
        """
        assert self._process
        try:
            status = self._process.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            raise ServiceError("the service does not end:\n" + "\n".join(self._log)) from None
        self._readers[-1].join()
        return status

    def stop(self) -> int:
        """Stop the service gracefully, and return its exit status; 0: all went well."""
        self.begin_stop()
        return self.wait()

    # What a test asks.

    @property
    def address(self) -> tuple[str, int]:
        """Where the service listens, the same over restarts."""
        return ("127.0.0.1", self._port)

    def connect(self, timeout: float = TIMEOUT) -> socket.socket:
        """A new client, whose calls take `timeout` seconds at most."""
        return socket.create_connection(self.address, timeout)

    @property
    def log(self) -> list[str]:
        """The lines of the log so far, with the level as in sd-daemon(3): ``<6>`` and the like."""
        with self._changed:
            return list(self._log)

    def wait_for_log(self, pattern: str) -> str:
        """Wait for a line of the log that matches an expression, and return the line."""
        return self._await_line(pattern, 0).string

    @property
    def failures(self) -> list[str]:
        """The lines of the log that are errors: exceptions of the handler, with their traceback."""
        return [line for line in self.log if re.match("<[0-3]>", line)]


class _Store:
    """The descriptor store of a service manager: FDSTORE=1 of sd_notify(3)."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._stored: list[tuple[str, int]] = []
        self._lock = threading.Lock()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(path)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as own:
            own.sendto(b"GRACED_TESTING_END=1", self.path)
        self._thread.join()
        self._socket.close()
        for _, fd in self._stored:
            os.close(fd)

    def contents(self) -> tuple[Sequence[str], Sequence[int]]:
        """Names and descriptors, for the next start."""
        with self._lock:
            return [name for name, _ in self._stored], [fd for _, fd in self._stored]

    def _serve(self) -> None:
        room = socket.CMSG_SPACE(_MOST_DESCRIPTORS * array.array("i").itemsize)
        while True:
            data, ancillary, _, _ = self._socket.recvmsg(65536, room, socket.MSG_CMSG_CLOEXEC)
            if data == b"GRACED_TESTING_END=1":
                return
            descriptors = array.array("i")
            for _, _, content in ancillary:
                descriptors.frombytes(content)
            lines = data.decode().splitlines()
            fields = dict(line.partition("=")[::2] for line in lines)
            with self._lock:
                kept = self._take(fields, list(descriptors))
            for fd in set(descriptors) - kept:
                # Of a barrier: its sender waits until it is closed.
                os.close(fd)

    def _take(self, fields: Mapping[str, str], descriptors: Sequence[int]) -> set[int]:
        """Store or remove; return the descriptors that are stored."""
        name = fields.get("FDNAME", "")
        if "FDSTOREREMOVE" in fields:
            for stored, fd in self._stored:
                if stored == name:
                    os.close(fd)
            self._stored = [each for each in self._stored if each[0] != name]
        elif "FDSTORE" in fields:
            # As systemd, which looks whether it has the same file already.
            new = [
                fd
                for fd in descriptors
                if not any(os.path.sameopenfile(fd, stored) for _, stored in self._stored)
            ]
            self._stored += [(name, fd) for fd in new]
            return set(new)
        return set()
