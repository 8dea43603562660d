"""A machine's own disposable copy of a root file system, and the place where it runs.

A copy is an overlay over the cached root, or a plain copy where overlays do not work. The overlay
is mounted only in the mount namespace of what runs on it, and what runs dies with the rig, so a
rig that is killed leaves no mount and no process, only a directory and an empty control group.
The next rig sweeps those away: a workspace whose lock nobody holds has no owner.
"""

import atexit
import contextlib
import fcntl
import os
import secrets
import select
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from rigging import cache
from rigging.errors import RigError

# What runs gets a control group of its own, else two machines would share the groups of their
# services, and stopping one machine's service would kill the other's. The tmpfs takes the files
# that nspawn leaves behind.
_ENTER = """
for group in $1; do echo 0 >"$group/cgroup.procs"; done
mkdir -p /run/systemd/nspawn
mount -t tmpfs tmpfs /run/systemd/nspawn
[ -z "$2" ] || mount -t overlay -o "$2" overlay "$3"
shift 3
exec "$@"
"""


class Workspace:
    """A private copy of the file system at base. Closed at the latest when the rig exits.

    ``root`` is where what runs finds its root file system, ``stage`` where files can be put
    into it as long as nothing runs. Without a base there is neither, only a directory.
    """

    def __init__(self, label: str, base: Path | None = None) -> None:
        with _all_machines() as machines:
            _sweep(machines)
            self.name = f"graced-{label}-{secrets.token_hex(4)}"
            self.directory = machines / self.name
            self.directory.mkdir()
            self._lock = (self.directory / "lock").open("w")
            fcntl.flock(self._lock, fcntl.LOCK_EX)
        self._processes: list[subprocess.Popen[bytes]] = []
        atexit.register(self.close)
        for name in ("root", "upper", "work"):
            (self.directory / name).mkdir()
            # The upper directory's mode is what the machine sees as the mode of /.
            (self.directory / name).chmod(0o755)
        self.root = self.directory / "root"
        self.stage = self.root
        self._overlay = ""
        if base is not None:
            self._copy(base)
        self._groups = [hierarchy / self.name for hierarchy in _hierarchies()]
        for group in self._groups:
            group.mkdir(exist_ok=True)

    @property
    def uses_overlay(self) -> bool:
        """Whether the copy is an overlay."""
        return bool(self._overlay)

    @property
    def memory_group(self) -> Path | None:
        """The machine's group in a separate memory hierarchy (cgroup v1), if the host has one."""
        return next((group for group in self._groups if group.parent.name == "memory"), None)

    def launch(
        self,
        argv: list[str],
        env: dict[str, str],
        output: IO[bytes] | int | None,
        descriptors: Sequence[int] = (),
    ) -> subprocess.Popen[bytes]:
        """Start argv where ``root`` is mounted. It is killed when the calling *thread* ends.

        It inherits the descriptors. The process that is returned waits for argv, which is its only
        child, and passes its exit status on.
        """
        groups = " ".join(str(group) for group in self._groups)
        # The process namespace ends with what started it. Without it nspawn alone would be killed,
        # and the container that it started would live on.
        enter = ["setpriv", "--pdeathsig=KILL", "unshare", "--mount", "--propagation=private"]
        enter += ["--pid", "--fork", "--kill-child", "--mount-proc"]
        enter += ["sh", "-ec", _ENTER, "enter", groups, self._overlay, str(self.root)]
        process = subprocess.Popen(
            [*enter, *argv],
            env={**os.environ, **env},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT if output is not None else None,
            pass_fds=descriptors,
            start_new_session=True,  # an interrupt at the terminal is for the rig alone
        )
        self._processes.append(process)
        return process

    def close(self) -> None:
        """Kill what runs and remove everything. May be called again."""
        atexit.unregister(self.close)
        for process in self._processes:
            process.kill()
            process.wait()
        with _all_machines():
            _remove(self.directory)
        self._lock.close()

    def _copy(self, base: Path) -> None:
        self._overlay = (
            f"lowerdir={base},upperdir={self.directory}/upper,workdir={self.directory}/work"
        )
        if self._overlay_works():
            self.stage = self.directory / "upper"
            return
        self._overlay = ""
        self.root.rmdir()
        _run("cp", "-a", "--reflink=auto", str(base), str(self.root))

    def _overlay_works(self) -> bool:
        argv = ["unshare", "--mount", "--propagation=private"]
        argv += ["mount", "-t", "overlay", "-o", self._overlay, "overlay", str(self.root)]
        return subprocess.run(argv, capture_output=True, check=False).returncode == 0


def sweep() -> int:
    """Remove what earlier rigs left when they were killed; returns how many machines are in use."""
    with _all_machines() as machines:
        return _sweep(machines)


@contextlib.contextmanager
def _all_machines() -> Iterator[Path]:
    """The directory of all rigs' workspaces, locked against others that make or remove one."""
    machines = cache.directory() / "machines"
    machines.mkdir(exist_ok=True)
    with cache.locked(machines.with_suffix(".lock")):
        yield machines


def _sweep(machines: Path) -> int:
    in_use = 0
    for directory in machines.iterdir():
        with (directory / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                in_use += 1
            else:
                _remove(directory)
    return in_use


def _remove(directory: Path) -> None:
    for hierarchy in _hierarchies():
        _remove_group(hierarchy / directory.name)
    if directory.exists():
        shutil.rmtree(directory)


def _remove_group(group: Path) -> None:
    if not group.exists():
        return
    kill = group / "cgroup.kill"
    if kill.exists():
        kill.write_text("1")
        _await_empty(group / "cgroup.events")
    for directory, _, _ in os.walk(group, topdown=False):
        Path(directory).rmdir()


def _await_empty(events: Path) -> None:
    """Block until the group that the file describes has no process left."""
    poll = select.poll()
    with events.open() as file:
        poll.register(file, select.POLLPRI)
        while "populated 1" in file.read():
            if not poll.poll(10_000):
                raise RigError(f"processes in {events.parent} survive SIGKILL")
            file.seek(0)


def _hierarchies() -> list[Path]:
    """Where machines get a control group from the rig.

    None where systemd runs the host: there nspawn asks it for one.
    """
    if Path("/run/systemd/system").is_dir():
        return []
    mount = Path("/sys/fs/cgroup")
    if (mount / "cgroup.controllers").exists():
        return [mount]
    candidates = [mount / name for name in ("unified", "systemd", "memory")]
    return [path for path in candidates if (path / "cgroup.procs").exists()]


def _run(*argv: str) -> None:
    subprocess.run(argv, check=True)
