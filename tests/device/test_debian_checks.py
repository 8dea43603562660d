"""What Debian's own tools say about the package, each release's version of them."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from rigging import Machine, Workbench, rootfs

DIST = "/src/dist"


@pytest.fixture(scope="module")
def bench(release: str) -> Iterator[Workbench]:
    """The release's tools, with the package built by them in /src/dist."""
    with Workbench(release) as bench:
        bench.run("packaging/build-deb")
        yield bench


def built(bench: Workbench) -> Path:
    """The package that the bench has built last."""
    (deb,) = bench.path(DIST).glob("graced_*_all.deb")
    return deb


def test_lintian_has_no_tag(bench: Workbench) -> None:
    deb = f"{DIST}/{built(bench).name}"
    output = bench.run("lintian", "--allow-root", "-EvIL", "+pedantic", deb).stdout
    # N: lines are notes, on overrides among others.
    tags = [line for line in output.splitlines() if not line.startswith("N: ")]
    assert tags == []


def test_a_second_build_is_the_same_to_the_byte(bench: Workbench) -> None:
    first = hashlib.sha256(built(bench).read_bytes()).hexdigest()
    elsewhere = {"TZ": "Asia/Kolkata", "LC_ALL": "C", "LANG": "C", "HOME": "/nonexistent"}
    script = "umask 077; cp -R /src /elsewhere; cd /elsewhere; rm -rf dist; packaging/build-deb"
    bench.run("sh", "-ec", script, env=elsewhere)
    (second,) = bench.path("/elsewhere/dist").glob("graced_*_all.deb")
    assert hashlib.sha256(second.read_bytes()).hexdigest() == first


def test_piuparts(bench: Workbench) -> None:
    base = rootfs.root(bench.release)
    argv = ["piuparts", "--existing-chroot=/base", f"--distribution={bench.release}"]
    argv += ["--keep-sources-list", "--no-eatmydata", "--skip-minimize"]
    # Installed, removed, purged, in a system that is not booted.
    bench.run(*argv, f"{DIST}/{built(bench).name}", mounts=[f"{base}:/base"])


def test_autopkgtest(bench: Workbench) -> None:
    deb = built(bench)
    with Machine(bench.release, "dev") as machine:
        machine.copy_tree(bench.source, "/var/tmp/graced")
        argv = ["autopkgtest", f"/var/tmp/graced/dist/{deb.name}", "/var/tmp/graced"]
        # Its third test is what `rig.py test` runs as well, at length.
        argv += ["--test-name=smoke", "--test-name=device"]
        # Nor need the slow ones of its second run once more: here it is the way in that is tested.
        quick = {"test_install", "test_journal", "test_start"}
        found = {path.stem for path in Path(__file__).parent.glob("test_*.py")}
        deselect = " ".join(f"--deselect=tests/device/{name}.py" for name in sorted(found - quick))
        argv += [f"--env=PYTEST_ADDOPTS={deselect}"]
        # The null runner does not know that it is in a container already.
        argv += ["--ignore-restrictions=isolation-container"]
        machine.run(*argv, "--", "null", timeout=900)
