"""A Debian system booted in a container by systemd-nspawn, with the real systemd as its PID 1.

The container has pure cgroup v2, as Debian's own installations have, also where the host has
not: services get their own control groups, and systemd 257 accepts nothing else.
"""

import contextlib
import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from rigging import network, rootfs
from rigging.device import ENVIRONMENT, connect_unix
from rigging.errors import PATIENCE, RigError
from rigging.machine import Machine
from rigging.workspace import Workspace

T = TypeVar("T")

# How nspawn reports that the container wants to start again.
_REBOOT = 133

# Seconds; a boot takes about a third of one.
_BOOT_TIMEOUT = 60.0
_SHUTDOWN_TIMEOUT = 60.0


class Container(Machine):
    """One booted container of a release. ``purpose`` is one of rootfs.PURPOSES."""

    def __init__(self, release: str, purpose: str = "device") -> None:
        self.name = self.release = release
        self._workspace = Workspace(release, rootfs.root(release, purpose))
        self._nspawn: subprocess.Popen[bytes] | None = None
        self._leader = 0
        self._leader_fd = -1

    # Life

    def boot(self) -> None:
        """See Machine."""
        address = f"graced-rig/{self._workspace.name}"
        # Abstract, since a cache may lie deeper than the 108 bytes of a socket's path.
        with (
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notifications,
            self._console.open("ab") as console,
        ):
            notifications.bind(f"\0{address}")
            self._nspawn = self._workspace.launch(
                self._boot_command(),
                {"NOTIFY_SOCKET": f"@{address}", "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
                console,
            )
            self._await_ready(self._nspawn, notifications)
        self.run("systemctl", "is-system-running", "--wait", check=False)

    def reboot(self) -> None:
        """See Machine."""
        if self._shut_down("reboot") != _REBOOT:
            raise RigError(f"the machine did not ask to start again\n{self.console()}")
        self.boot()

    def poweroff(self) -> None:
        """See Machine."""
        if self._shut_down("poweroff") != 0:
            raise RigError(f"the machine did not power off\n{self.console()}")

    def close(self) -> None:
        """See Machine."""
        if self._nspawn is not None:
            self._nspawn.kill()
        if self._leader_fd >= 0:
            _await_exit(self._leader_fd, _SHUTDOWN_TIMEOUT)
        self._forget_leader()
        self._workspace.close()

    def console(self) -> str:
        """The end of what the machine wrote to its console."""
        if not self._console.exists():
            return ""
        return "\n".join(self._console.read_text(errors="replace").splitlines()[-40:])

    @property
    def leader(self) -> int:
        """The machine's PID 1, by its number here."""
        return self._leader

    @property
    def uses_overlay(self) -> bool:
        """Whether the machine's files are an overlay over the cached root."""
        return self._workspace.uses_overlay

    @property
    def _console(self) -> Path:
        return self._workspace.directory / "console.log"

    def _boot_command(self) -> list[str]:
        argv = ["systemd-nspawn", "--quiet", f"--directory={self._workspace.root}"]
        argv += [f"--machine={self._workspace.name}", "--hostname=device", "--boot"]
        argv += ["--register=no", "--private-network", "--console=pipe", "--notify-ready=yes"]
        if not Path("/run/systemd/system").is_dir():
            argv.append("--keep-unit")  # there is nobody to ask for a scope
        return argv

    def _await_ready(self, nspawn: subprocess.Popen[bytes], notifications: socket.socket) -> None:
        deadline = time.monotonic() + _BOOT_TIMEOUT
        exited = os.pidfd_open(nspawn.pid)
        poll = select.poll()
        poll.register(notifications, select.POLLIN)
        poll.register(exited, select.POLLIN)
        try:
            while True:
                ready = poll.poll(max(0.0, deadline - time.monotonic()) * 1000)
                if not ready:
                    raise RigError(f"no boot in {_BOOT_TIMEOUT:g} s\n{self.console()}")
                if (exited, select.POLLIN) in ready:
                    raise RigError(f"nspawn exits with {nspawn.wait()}\n{self.console()}")
                if "READY=1" in notifications.recv(4096).decode().splitlines():
                    # nspawn knows it only by its number in a process namespace of ours.
                    (supervisor,) = _children(nspawn.pid)
                    (self._leader,) = _children(supervisor)
                    self._leader_fd = os.pidfd_open(self._leader)
                    return
        finally:
            os.close(exited)

    def _shut_down(self, verb: str) -> int:
        if self._nspawn is None:
            raise RigError("the machine is not running")
        # PID 1 may end the command before it has an exit status to report.
        self.run("systemctl", "--no-block", verb, check=False)
        try:
            status = self._nspawn.wait(_SHUTDOWN_TIMEOUT)
        except subprocess.TimeoutExpired:
            raise RigError(f"the machine hangs in {verb}\n{self.console()}") from None
        self._nspawn = None
        self._forget_leader()
        return status

    def _forget_leader(self) -> None:
        if self._leader_fd >= 0:
            os.close(self._leader_fd)
        self._leader = 0
        self._leader_fd = -1

    # What Device asks for

    def command(self, argv: Sequence[str]) -> list[str]:
        """See Device."""
        if not self._leader:
            raise RigError("the machine is not running")
        enter = ["nsenter", f"--target={self._leader}"]
        enter += ["--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--root", "--wd"]
        return [*enter, "env", "-i", *(f"{k}={v}" for k, v in ENVIRONMENT.items()), *argv]

    def end(self, process: subprocess.Popen[Any]) -> None:
        """See Device."""
        if process.poll() is not None:
            return
        # nsenter waits for the command, which must not lose its parent: the host's init would
        # have to reap it, and until it does a zombie holds the machine's shutdown up.
        for child in _children(process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def inside(self, action: Callable[[], T]) -> T:
        """See Device. The action runs in a thread of its own, in the container's network."""
        return network.inside(Path(f"/proc/{self._leader}/ns/net"), action)

    def connect_unix(self, path: str, timeout: float = PATIENCE) -> socket.socket:
        """See Device. Not through absolute symbolic links: those lead into the host."""
        return connect_unix(str(self._path(path)), timeout)

    def _path(self, path: str) -> Path:
        """Where a file of the container is found from here."""
        if not self._leader:
            raise RigError("the machine is not running")
        return Path(f"/proc/{self._leader}/root{path}")

    @contextlib.contextmanager
    def out_of_memory(self, unit: str) -> Iterator[None]:
        """See Machine."""
        group = self._workspace.memory_group
        if group is None:
            with super().out_of_memory(unit):
                yield
            return
        # The host's memory controller is bound to cgroup v1, so the machine's systemd has none;
        # the killer is the same.
        limited = group / "limited"
        limited.mkdir()
        (limited / "memory.limit_in_bytes").write_text("0")
        for pid in self._host_pids(unit):
            (limited / "cgroup.procs").write_text(str(pid))
        yield
        killed = "oom_kill 0" not in (limited / "memory.oom_control").read_text()
        limited.rmdir()
        if not killed:
            raise RigError(f"the kernel killed nothing of {unit}")

    def _host_pids(self, unit: str) -> list[int]:
        """The processes of a unit in system.slice, by their number on the host."""
        group = self.show(unit, "ControlGroup")["ControlGroup"]
        listed = self._path(f"/sys/fs/cgroup{group}/cgroup.procs").read_text()
        return [int(line) for line in listed.split()]


def _children(pid: int) -> list[int]:
    """The children of a process that has one thread."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _await_exit(pidfd: int, timeout: float) -> None:
    """Kill the process and block until it is gone."""
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    if not poll.poll(timeout * 1000):
        raise RigError("the machine survives SIGKILL")
