"""What Debian's own tools say about the packages, each release's version of them."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from device.packages import Packages
from rigging import Container, Workbench, rootfs

DIST = "/src/dist"


class Build:
    """The release's tools, the packages that they have built in /src/dist, and what was said."""

    def __init__(self, bench: Workbench) -> None:
        self.bench = bench
        self.output = bench.run("packaging/build-deb").stdout
        self.debs = [f"{DIST}/{deb.name}" for deb in Packages(bench.path(DIST))]


@pytest.fixture(scope="module")
def build(target: str) -> Iterator[Build]:
    """The packages, built on the release."""
    with Workbench(target) as bench:
        yield Build(bench)


def digests(directory: Path) -> list[str]:
    """The checksum of each package in a directory."""
    return [hashlib.sha256(deb.read_bytes()).hexdigest() for deb in Packages(directory)]


def test_lintian_has_no_tag(build: Build) -> None:
    # build-deb runs lintian on the binary packages and the source package, and prints each tag.
    told = [line.partition(" (")[0] for line in build.output.splitlines()]
    assert [f"/src/{line}" for line in told] == build.debs


def test_second_build_is_same_to_byte(build: Build) -> None:
    first = digests(build.bench.path(DIST))
    elsewhere = {"TZ": "Asia/Kolkata", "LC_ALL": "C", "LANG": "C", "HOME": "/nonexistent"}
    script = "umask 077; cp -R /src /elsewhere; cd /elsewhere; rm -rf dist; packaging/build-deb"
    build.bench.run("sh", "-ec", script, env=elsewhere)
    assert digests(build.bench.path("/elsewhere/dist")) == first


def test_piuparts(build: Build) -> None:
    base = rootfs.root(build.bench.release)
    argv = ["piuparts", "--existing-chroot=/base", f"--distribution={build.bench.release}"]
    argv += ["--keep-sources-list", "--no-eatmydata", "--skip-minimize"]
    # Installed, removed, purged, in a system that is not booted.
    build.bench.run(*argv, *build.debs, mounts=[f"{base}:/base"])


def test_autopkgtest(build: Build) -> None:
    with Container(build.bench.release, "dev") as machine:
        machine.copy_tree(build.bench.source, "/var/tmp/graced")
        debs = [deb.replace("/src/", "/var/tmp/graced/") for deb in build.debs]
        argv = ["autopkgtest", *debs, "/var/tmp/graced"]
        # Its second test is what `rig.py test` runs as well, at length.
        argv += ["--test-name=smoke", "--test-name=device"]
        # Nor need the slow ones of the third run once more: here it is the way in that is tested.
        quick = {"test_install", "test_journal", "test_start"}
        found = {path.stem for path in Path(__file__).parent.glob("test_*.py")}
        deselect = " ".join(f"--deselect=tests/device/{name}.py" for name in sorted(found - quick))
        argv += [f"--env=PYTEST_ADDOPTS={deselect}"]
        # The null runner does not know that it is in a container already.
        argv += ["--ignore-restrictions=isolation-container"]
        machine.run(*argv, "--", "null", timeout=900)
