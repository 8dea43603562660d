#!/usr/bin/env python3
"""Boot Debian releases in containers, install graced there, and look.

The device tests use the same machinery; this is its door for people. Needs root,
systemd-container and mmdebstrap.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType
from typing import NoReturn

from rigging import RELEASES, Machine, RigError, rootfs, unavailable, workbench, workspace

_UNAVAILABLE = 69
_FAILED = 1


def main() -> int:
    """Parse the arguments, act, and return the exit status."""
    arguments, rest = _parse(sys.argv[1:])
    reason = unavailable()
    if reason is not None:
        print(f"rig: cannot run here: {reason}", file=sys.stderr)
        return _UNAVAILABLE
    signal.signal(signal.SIGTERM, _terminate)
    try:
        return _act(arguments, rest)
    except RigError as error:
        print(f"rig: {error}", file=sys.stderr)
        return _FAILED
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def _parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """The options, and what stands behind ``--``."""
    parser = argparse.ArgumentParser(prog="rig.py", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    build = commands.add_parser("build", help="build the root file systems that are not cached")
    build.add_argument("release", nargs="*", metavar="RELEASE", help=f"default: {_all()}")
    deb = "a package to install first; once for each"
    for name, text in (
        ("shell", "boot a machine and give a shell on it"),
        ("run", "boot a machine, run the command behind --, pass its exit status on"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("release", choices=RELEASES)
        command.add_argument("--deb", type=Path, action="append", default=[], help=deb)
    test = commands.add_parser(
        "test", help="run the unit and functional tests with a release's Python; -- PYTEST ARGS"
    )
    test.add_argument("release", choices=RELEASES)
    commands.add_parser("clean", help="remove the cached root file systems and dead machines")
    cut = argv.index("--") if "--" in argv else len(argv)
    arguments = parser.parse_args(argv[:cut])
    rest = argv[cut + 1 :]
    if arguments.command == "build" and not set(arguments.release) <= set(RELEASES):
        parser.error(f"a release is one of {_all()}")
    if arguments.command == "run" and not rest:
        parser.error("nothing to run: put the command behind --")
    if arguments.command == "test":
        return arguments, rest
    if arguments.command != "run" and rest:
        parser.error(f"{arguments.command} takes nothing behind --")
    return arguments, rest


def _act(arguments: argparse.Namespace, rest: list[str]) -> int:
    match arguments.command:
        case "build":
            for release in arguments.release or RELEASES:
                for purpose in rootfs.PURPOSES:
                    print(rootfs.root(release, purpose))
            return 0
        case "test":
            return workbench.run_tests(arguments.release, rest)
        case "clean":
            return _clean()
    with Machine(arguments.release) as machine:
        if arguments.deb:
            machine.install(*(deb.resolve(strict=True) for deb in arguments.deb))
        argv = rest or ["env", f"TERM={os.environ.get('TERM', 'dumb')}", "bash", "-i"]
        return subprocess.run(machine.command(argv), check=False).returncode


def _clean() -> int:
    in_use = workspace.sweep()
    if in_use:
        print(f"rig: {in_use} machines are in use; nothing but dead ones removed", file=sys.stderr)
        return _FAILED
    shutil.rmtree(rootfs.cache_dir() / "roots", ignore_errors=True)
    return 0


def _terminate(signum: int, frame: FrameType | None) -> NoReturn:
    sys.exit(128 + signum)  # so that machines are closed on the way out


def _all() -> str:
    return " ".join(RELEASES)


if __name__ == "__main__":
    sys.exit(main())
