"""The rig itself: it leaves nothing behind, and says where it cannot run."""

import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from device import CHECKOUT
from rigging import Container, RigError, cache, machine, rootfs
from rigging.streams import LineStream

RIG = str(CHECKOUT / "packaging" / "rig.py")


@pytest.fixture
def environment(tmp_path: Path, container: Container) -> dict[str, str]:
    """The environment for a rig with machines of its own, but the root file systems of this one."""
    rootfs.root(container.release)
    (tmp_path / "roots").symlink_to(cache.directory() / "roots")
    return {**os.environ, "GRACED_RIG_CACHE": str(tmp_path)}


def descendants(pid: int) -> list[int]:
    """All that a process has started, by pidfd."""
    found = []
    for thread in Path(f"/proc/{pid}/task").iterdir():
        for child in (thread / "children").read_text().split():
            found += [os.pidfd_open(int(child)), *descendants(int(child))]
    return found


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_rig_that_is_ended_leaves_nothing(
    environment: dict[str, str], container: Container, signum: signal.Signals
) -> None:
    machines = Path(environment["GRACED_RIG_CACHE"]) / "machines"
    argv = [sys.executable, RIG, "run", container.name, "--", "sh", "-c", "echo up; sleep infinity"]
    rig = subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE)
    with LineStream(rig, subprocess.Popen.kill) as output:
        assert output.line(time.monotonic() + 60) == "up"
        (workspace,) = machines.iterdir()
        started = descendants(rig.pid)
        assert len(started) > 3
        rig.send_signal(signum)
        assert rig.wait(30) == (-signum if signum is signal.SIGKILL else 128 + signum)
    for process in started:
        # Readable when it has ended; each is killed by the end of the one before it.
        assert select.select([process], [], [], 30)[0]
        os.close(process)
    if signum is signal.SIGKILL:
        # Nobody was left to remove it, so the next rig does.
        assert list(machines.iterdir()) == [workspace]
        subprocess.run(
            [sys.executable, RIG, "run", container.name, "--", "true"], env=environment, check=True
        )
    assert list(machines.iterdir()) == []
    # Unlike Path.glob, os.walk passes over a group of another machine that goes away meanwhile.
    groups = os.walk("/sys/fs/cgroup")
    assert [where for where, names, _ in groups if workspace.name in names] == []
    assert workspace.name not in Path("/proc/self/mounts").read_text()


def test_two_machines_do_not_share_control_groups(container: Container) -> None:
    before = container.show("dbus.service", "MainPID", "ActiveState")
    with machine(container.name) as other:
        other.systemctl("kill", "--signal=SIGKILL", "dbus.service")
    assert container.show("dbus.service", "MainPID", "ActiveState") == before


def refusal(argv: list[str], environment: dict[str, str]) -> str:
    """What the rig says where it cannot run."""
    result = subprocess.run(
        argv, env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert (result.returncode, result.stdout) == (69, "")
    return result.stderr


def test_missing_tools_are_named_in_one_line() -> None:
    said = refusal([sys.executable, RIG, "build"], {"PATH": "/nonexistent"})
    assert (
        said == "rig: cannot run here: systemd-nspawn is not installed"
        " (package systemd-container)\n"
    )


def test_missing_root_is_named_in_one_line() -> None:
    said = refusal(["unshare", "--user", sys.executable, RIG, "build"], dict(os.environ))
    assert said == "rig: cannot run here: not root\n"


def test_device_tests_that_cannot_run_are_told_in_one_line() -> None:
    argv = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        str(CHECKOUT / "tests/device"),
    ]
    result = subprocess.run(
        argv,
        env={"PATH": "/nonexistent"},
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    told = [line for line in result.stdout.splitlines() if "not run" in line]
    assert told == [
        "device tests not run: systemd-nspawn is not installed (package systemd-container)"
    ]
    assert "skipped" not in result.stdout


def test_cache_has_no_entry_that_could_not_be_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRACED_RIG_CACHE", str(tmp_path))

    def fail(unfinished: Path) -> None:
        unfinished.write_text("half")
        raise RigError("no space")

    with pytest.raises(RigError):
        cache.entry("images", "one", ["recipe"], fail)
    assert cache.entries() == []
    made = [cache.entry("images", "one", [text], Path.touch) for text in ("recipe", "other")]
    assert cache.entries() == sorted(made)
    cache.clear()
    assert cache.entries() == []


@pytest.mark.parametrize("missing", ["qemu-system-arm", "mke2fs"])
def test_virtual_machine_without_its_tools_is_refused(tmp_path: Path, missing: str) -> None:
    """As on a host that has what containers take, and not all that virtual machines take."""
    path = os.environ["PATH"].split(":")
    for directory in map(Path, path):
        for tool in directory.iterdir() if directory.is_dir() else ():
            if tool.name != missing and not (tmp_path / tool.name).exists():
                (tmp_path / tool.name).symlink_to(tool)
    said = refusal([sys.executable, RIG, "build", "bookworm-armhf"], {"PATH": str(tmp_path)})
    package = {"mke2fs": "e2fsprogs"}.get(missing, missing)
    assert said == f"rig: cannot run here: bookworm-armhf needs the package {package}\n"
