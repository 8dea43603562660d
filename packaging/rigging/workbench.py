"""A release's own tools at work on a copy of the checkout: its Python, its debhelper, its lintian.

Not booted: a container with a private network, in which only the loopback exists, and a minimal
init that reaps, so that what a tool leaves running does not outlive it.
"""

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from rigging import rootfs
from rigging.errors import CommandError
from rigging.targets import TARGETS, Target
from rigging.virtual import VirtualMachine
from rigging.workspace import Workspace

CHECKOUT = Path(__file__).resolve().parents[2]

# Where the copy lies for what runs.
SOURCE = "/src"

# Those with servers from PyPI are left out by pytest, since Debian has few of these packages, and
# those in other versions.
TESTS = ("tests/unit", "tests/functional", "tests/strangers")

# Most of a test's time is waiting.
_SIDE_BY_SIDE = ("-n", "4")

# An ordinary user, to whom the copy belongs: root runs the tests on the host.
_USER = "tester"
_AS_USER = f"""
useradd --create-home {_USER}
chown --recursive {_USER}: {SOURCE}
exec runuser --user {_USER} -- env HOME=/home/{_USER} USER={_USER} LOGNAME={_USER} "$@"
"""

# What a device lacks for the unit tests, and where it lies there.
_TEST_TOOLS = ("python3-pytest", "python3-hypothesis")
_TOOLS = "/opt/test-tools"


class Workbench:
    """A container with the tools of a release and a copy of the checkout; a context manager.

    ``source`` is the copy as seen from here; what the tools make of it stays until the context
    is left.
    """

    def __init__(self, release: str) -> None:
        self.release = release
        self._workspace = Workspace(f"{release}-dev", rootfs.root(release, "dev"))
        self.source = self.path(SOURCE)
        _copy_checkout(self.source)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._workspace.close()

    def path(self, path: str) -> Path:
        """Where a file that was put here or made here is found, while nothing runs."""
        return self._workspace.stage / path.removeprefix("/")

    def stream(self, argv: Sequence[str], env: dict[str, str] | None = None) -> int:
        """Run a command in the copy, its output going through; returns its exit status."""
        return self._launch(argv, env or {}, (), None).wait()

    def run(
        self, *argv: str, env: dict[str, str] | None = None, mounts: Sequence[str] = ()
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the copy; returns its output, that on stderr included.

        mounts are HERE:THERE pairs to mount read-only. Raises CommandError on a non-zero exit
        status.
        """
        process = self._launch(argv, env or {}, mounts, subprocess.PIPE)
        output, _ = process.communicate()
        text = output.decode(errors="replace")
        result = subprocess.CompletedProcess(argv, process.returncode, text, "")
        if result.returncode != 0:
            raise CommandError(argv, result)
        return result

    def _launch(
        self, command: Sequence[str], env: dict[str, str], mounts: Sequence[str], output: int | None
    ) -> subprocess.Popen[bytes]:
        argv = ["systemd-nspawn", "--quiet", f"--directory={self._workspace.root}", "--as-pid2"]
        argv += [f"--machine={self._workspace.name}", "--hostname=device", "--register=no"]
        argv += ["--private-network", "--console=pipe", f"--chdir={SOURCE}"]
        argv += [f"--setenv={key}={value}" for key, value in {"LANG": "C.UTF-8", **env}.items()]
        argv += [f"--bind-ro={mount}" for mount in mounts]
        if not Path("/run/systemd/system").is_dir():
            argv.append("--keep-unit")
        unified = {"SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"}
        return self._workspace.launch([*argv, *command], unified, output)


def run_tests(name: str, pytest_arguments: Sequence[str] = ()) -> int:
    """Run the tests of the program, or what pytest is told; returns pytest's exit status.

    In a container as an ordinary user, on a virtual machine as root.
    """
    target = TARGETS[name]
    if target.virtual:
        return _run_tests_on_virtual_machine(target, pytest_arguments or TESTS)
    arguments = pytest_arguments or (*_SIDE_BY_SIDE, *TESTS)
    as_user = ["sh", "-e", "-c", _AS_USER, "sh"]
    with Workbench(target.release) as bench:
        argv = [*as_user, "python3", "-m", "pytest", *arguments]
        return bench.stream(argv, {"PYTHONPATH": "daemon"})


def _run_tests_on_virtual_machine(target: Target, arguments: Sequence[str]) -> int:
    # Pytest and hypothesis are pure Python: unpacking them is enough, and what it takes to emulate
    # their installation is saved.
    tools = rootfs.extracted(target.release, target.architecture, _TEST_TOOLS)
    with VirtualMachine(target) as machine, tempfile.TemporaryDirectory() as copy:
        _copy_checkout(Path(copy))
        machine.copy_tree(Path(copy), SOURCE)
        machine.copy_tree(tools / "usr/lib/python3/dist-packages", _TOOLS)
        argv = ["env", f"--chdir={SOURCE}", f"PYTHONPATH={SOURCE}/daemon:{_TOOLS}"]
        argv += ["python3", "-m", "pytest", "-p", "no:cacheprovider", *arguments]
        return subprocess.run(machine.command(argv), check=False).returncode


def _copy_checkout(target: Path) -> None:
    """Copy what git tracks or would track; build products of another Python stay out."""
    argv = ["git", "-c", "safe.directory=*", "-C", str(CHECKOUT)]
    argv += ["ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(argv, stdout=subprocess.PIPE, check=True, text=True)
    for name in filter(None, listing.stdout.split("\0")):
        source = CHECKOUT / name
        if source.is_symlink() or source.exists():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target / name, follow_symlinks=False)
