"""A Debian system booted by qemu on Debian's own kernel, for amd64, arm64 and armhf.

A container cannot show what depends on the kernel or the processor. The interface is that of
a container, so the device tests run on both. What that takes, and why it is done so:

- **Commands.** A device has no ssh, and an openssh-server on it would be a part of what is
  measured. An agent of standard-library Python in /run runs commands (agent.py); on the host
  a command is a process (remote.py), as nsenter is for a container, so pipes, exit statuses and
  terminals are the same. Hypervisor sockets (vsock) would be simpler, but need a host module that
  is not everywhere; a serial console carries one command at a time.
- **Files** are read and written by commands, on every kind of device: 9p and virtiofs need guest
  modules that a minimal device does not load, and a view of the host's on /proc or /run is none.
- **The network** is a tap device in a namespace of the machine's own, in which 127.0.0.1 is the
  machine's loopback (network.py). Clients of the tests therefore speak TCP with the daemon itself.
- **Unix sockets** (the bus, graced's own) and ::1, which the kernel accepts from no wire, go
  through a relay in the agent, which passes on half-closes, resets and refusals.
- **The disk** is an image of the same root file system that containers of a release have, built
  once, with a copy-on-write file over it for each machine. The kernel and an initial RAM disk that
  puts the agent into /run come from the host (kernel.py): nothing of the rig is on the disk.
- **Speed.** KVM is used where a kernel really boots with it, else full emulation (emulator.py).
"""

import contextlib
import json
import os
import select
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from rigging import agent, cache, emulator, rootfs
from rigging.device import ENVIRONMENT
from rigging.errors import PATIENCE, RigError
from rigging.kernel import kernel
from rigging.machine import Machine
from rigging.network import Network
from rigging.targets import Target
from rigging.workspace import Workspace

T = TypeVar("T")

MEMORY = 512
"""MB"""

# Seconds. Emulated on a busy host, a boot takes a minute.
_BOOT_TIMEOUT = 240.0
_SHUTDOWN_TIMEOUT = 180.0
# For a command to die after SIGKILL.
_END_TIMEOUT = 20.0

_DISK_SIZE = "2G"

_REMOTE = str(Path(__file__).with_name("remote.py"))


class VirtualMachine(Machine):
    """One machine of qemu's, of a release and an architecture. ``memory`` is in MB."""

    def __init__(self, target: Target, memory: int = MEMORY, cpus: int = 2) -> None:
        self.name = target.name
        self.release = target.release
        self._target = target
        self._memory = memory
        self._cpus = cpus
        self._kernel = kernel(target)
        self._workspace = Workspace(target.name)
        self._disk = self._workspace.directory / "disk.qcow2"
        argv = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw"]
        argv += ["-b", str(disk_image(target)), str(self._disk)]
        subprocess.run(argv, check=True)
        self._network = Network()
        self._qemu: subprocess.Popen[bytes] | None = None

    # Life

    def boot(self) -> None:
        """See Machine."""
        argv = emulator.command(
            self._target, self._kernel, self._disk, self._console, self._memory, self._cpus
        )
        # Where it runs, /proc does not show the rig.
        namespace = self._network.descriptor
        enter = ["nsenter", f"--net=/proc/self/fd/{namespace}"]
        with self._network.listen_for_agent() as listener:
            with self._output.open("ab") as output:
                self._qemu = self._workspace.launch([*enter, *argv], {}, output, [namespace])
            self._await_agent(self._qemu, listener)
        argv = ["systemctl", "is-system-running", "--wait"]
        self.run(*argv, check=False, timeout=_BOOT_TIMEOUT)

    def reboot(self) -> None:
        """See Machine."""
        self._shut_down("reboot")
        self.boot()

    def poweroff(self) -> None:
        """See Machine."""
        self._shut_down("poweroff")

    def close(self) -> None:
        """See Machine."""
        self._workspace.close()
        self._network.close()
        self._qemu = None

    def console(self) -> str:
        """The end of what the machine, or qemu, wrote to the console."""
        files = [file for file in (self._console, self._output) if file.exists()]
        text = "\n".join(file.read_text(errors="replace") for file in files)
        return "\n".join(text.splitlines()[-40:])

    @property
    def accelerator(self) -> str:
        """``kvm`` or ``tcg``."""
        return emulator.accelerator(self._target, self._kernel)

    @property
    def _console(self) -> Path:
        return self._workspace.directory / "console.log"

    @property
    def _output(self) -> Path:
        return self._workspace.directory / "qemu.log"

    def _await_agent(self, qemu: "subprocess.Popen[bytes]", listener: socket.socket) -> None:
        exited = os.pidfd_open(qemu.pid)
        try:
            ready, _, _ = select.select([listener.fileno(), exited], [], [], _BOOT_TIMEOUT)
        finally:
            os.close(exited)
        if not ready:
            raise RigError(f"no boot in {_BOOT_TIMEOUT:g} s\n{self.console()}")
        if exited in ready:
            raise RigError(f"qemu exits with {qemu.wait()}\n{self.console()}")
        listener.accept()[0].close()

    def _shut_down(self, verb: str) -> None:
        if self._qemu is None:
            raise RigError("the machine is not running")
        # The agent may end before the command has an exit status to report.
        self.run("systemctl", "--no-block", verb, check=False)
        try:
            status = self._qemu.wait(_SHUTDOWN_TIMEOUT)
        except subprocess.TimeoutExpired:
            raise RigError(f"the machine hangs in {verb}\n{self.console()}") from None
        self._qemu = None
        if status != 0:
            raise RigError(f"qemu exits with {status}\n{self.console()}")

    # What Device asks for

    def command(self, argv: Sequence[str]) -> list[str]:
        """See Device."""
        if self._qemu is None:
            raise RigError("the machine is not running")
        enter = ["nsenter", f"--net={self._network.path}"]
        # Without site-packages: it starts in half the time.
        python = [sys.executable, "-E", "-s", "-S", _REMOTE]
        return [*enter, *python, json.dumps(ENVIRONMENT), *argv]

    def end(self, process: "subprocess.Popen[Any]") -> None:
        """See Device."""
        if process.poll() is None:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_END_TIMEOUT)
        super().end(process)

    def inside(self, action: Callable[[], T]) -> T:
        """See Device. The action runs in a thread of its own, in the rig's half of the network."""
        return self._network.inside(action)

    def connect(
        self, port: int, host: str = "127.0.0.1", timeout: float = PATIENCE
    ) -> socket.socket:
        """See Device."""
        if ":" in host:
            return self._relayed([host, port], timeout)
        return super().connect(port, host, timeout)

    def connect_unix(self, path: str, timeout: float = PATIENCE) -> socket.socket:
        """See Device."""
        return self._relayed(path, timeout)

    def _relayed(self, address: object, timeout: float) -> socket.socket:
        """A connection to an address on the machine, through its agent. Raises OSError."""
        connection = self.inside(
            lambda: socket.create_connection((agent.DEVICE_ADDRESS, agent.PORT), timeout)
        )
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.sendall(json.dumps({"connect": address}).encode() + b"\n")
            _check(int(agent.read_line(connection)))
        except BaseException:
            connection.close()
            raise
        return connection


def _check(number: int) -> None:
    """Raise an errno of the agent's, if it is one."""
    if number:
        raise OSError(number, os.strerror(number))


def disk_image(target: Target) -> Path:
    """An ext4 image of a target's root file system, from the cache or built now."""
    root = rootfs.root(target.release, "device", target.architecture)

    def build(unfinished: Path) -> None:
        options = ["-q", "-F", "-t", "ext4", "-O", "^has_journal", "-d", str(root)]
        result = subprocess.run(
            ["mke2fs", *options, str(unfinished), _DISK_SIZE],
            capture_output=True,
            text=True,
            check=False,
        )
        if result.returncode != 0:
            raise RigError(f"mke2fs cannot build an image of {root.name}:\n{result.stderr}")

    return cache.entry("images", root.name, (root.name, _DISK_SIZE), build)
