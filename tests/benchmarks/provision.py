"""What the benchmarks need and a fresh Debian 12 does not have: fetched or built once, kept.

Everything goes to one directory outside the source (`BUILD`), except for Debian packages that
are missing.  inetd is unpacked there instead of being installed: it would start a service.  What
cannot be had is said in one line, and its peer is left out.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
TOP = HERE.parents[1]
DAEMON = TOP / "daemon"
BUILD = TOP / "build" / "bench"
PYTHON = "/usr/bin/python3"
"""The interpreter of every Python server: Debian's, as an installed graced would use."""

PACKAGES = (
    "gcc",
    "libc6-dev",
    "netbase",  # the port of echo
    "python3-daemon",
    "python3-sdnotify",
    "python3-systemd",
    "python3-venv",
    "socat",
    "strace",
    # What inetd is linked to.
    "libbsd0",
    "libevent-2.1-7",
    "libtirpc3",
    "libwrap0",
)
INETD = "openbsd-inetd"


class MissingError(Exception):
    """Something could not be had; the text says what, and what that means."""


def say(text: str) -> None:
    """One line for whoever waits."""
    print(text, file=sys.stderr, flush=True)


def run(command: Sequence[str | Path], cwd: Path | None = None) -> None:
    """Run a command that must not fail.  Raises `MissingError` with its last line."""
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
    try:
        done = subprocess.run(
            command, cwd=cwd, env=environment, capture_output=True, text=True, check=False
        )
    except OSError as error:
        raise MissingError(f"{command[0]}: {error.strerror}") from None
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["no reason given"]
        raise MissingError(f"{Path(command[0]).name} failed: {last[0]}")


def packages() -> None:
    """Install the Debian packages that are missing; one that cannot be had stops no other."""
    query = ["/usr/bin/dpkg-query", "--show", "--showformat", "${Package} ${db:Status-Status}\n"]
    known = subprocess.run(
        [*query, *PACKAGES], capture_output=True, text=True, check=False
    ).stdout.splitlines()
    missing = [name for name in PACKAGES if f"{name} installed" not in known]
    if not missing:
        return
    if os.geteuid() != 0:
        say(f"bench: not root, so not installed: {' '.join(missing)}")
        return
    say(f"bench: installing {' '.join(missing)}")
    try:
        run(["apt-get", "update"])
    except MissingError as error:
        say(f"bench: {error}")
    for name in missing:
        try:
            run(["apt-get", "install", "-y", "--no-install-recommends", name])
        except MissingError as error:
            say(f"bench: without {name}: {error}")


def inetd() -> Path:
    """An inetd that is not installed."""
    for installed in ("/usr/sbin/inetd", "/usr/sbin/openbsd-inetd"):
        if Path(installed).exists():
            return Path(installed)
    root = BUILD / INETD
    program = root / "usr/sbin/inetd"
    if not program.exists():
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir(parents=True)
        # apt fetches as the user _apt, which need not be able to write here.
        run(["apt-get", "-o", "APT::Sandbox::User=root", "download", INETD], cwd=root)
        archive = next(root.glob("*.deb"))
        run(["dpkg-deb", "--extract", archive, root])
        if not program.exists():
            raise MissingError(f"{INETD} has no inetd")
    return program


def environment(name: str, distribution: str) -> Path:
    """The site-packages of a virtual environment that holds one distribution."""
    root = BUILD / name
    done = root / "complete"
    if not done.exists():
        say(f"bench: fetching {distribution}")
        run([PYTHON, "-m", "venv", "--clear", root])
        run([root / "bin/python", "-m", "pip", "install", "--quiet", distribution])
        done.touch()
    return next((root / "lib").glob("python3*/site-packages"))


def program(name: str) -> Path:
    """Compile one of the C programs beside this file, unless that has been done."""
    source, binary = HERE / f"{name}.c", BUILD / name
    if not binary.exists() or binary.stat().st_mtime < source.stat().st_mtime:
        BUILD.mkdir(parents=True, exist_ok=True)
        warnings = ["-Wall", "-Wextra", "-Werror"]
        run(["gcc", "-std=c11", "-O2", *warnings, "-pthread", "-o", binary, source])
    return binary


def versions() -> dict[str, str]:
    """Of what takes part."""
    found = {}
    query = {
        "Python": [PYTHON, "-V"],
        "gcc": ["gcc", "-dumpfullversion"],
        "glibc": ["getconf", "GNU_LIBC_VERSION"],
        "socat": ["dpkg-query", "-Wf", "${Version}", "socat"],
    }
    for name, command in query.items():
        with contextlib.suppress(OSError):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode == 0:
                found[name] = done.stdout.split()[-1]
    for name in ("uvloop", "plot"):
        for metadata in (BUILD / name).glob("lib/python3*/site-packages/*.dist-info"):
            package, version = metadata.name.removesuffix(".dist-info").split("-", 1)
            if package in {"uvloop", "matplotlib"}:
                found[package] = version
    for archive in (BUILD / INETD).glob("*.deb"):
        found[INETD] = archive.name.split("_")[1]
    return found
