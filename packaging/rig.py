#!/usr/bin/env python3
"""Boot Debian in containers and virtual machines, install graced there, and look.

MACHINE is a release (bookworm, trixie), which is a container on the kernel of this host, or
a release with -vm (amd64), -arm64 or -armhf, which boots Debian's own kernel under qemu. The device
tests use the same machinery; this is its door for people. Needs root, systemd-container and
mmdebstrap, and for virtual machines qemu; what is missing is said.
"""

import argparse
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType
from typing import NoReturn

from rigging import (
    CONTAINERS,
    MACHINES,
    TARGETS,
    RigError,
    VirtualMachine,
    cache,
    machine,
    rootfs,
    unavailable,
    workbench,
    workspace,
)

_UNAVAILABLE = 69
_FAILED = 1


def main() -> int:
    """Parse the arguments, act, and return the exit status."""
    arguments, rest = _parse(sys.argv[1:])
    named = getattr(arguments, "machine", [])
    reason = unavailable(*([named] if isinstance(named, str) else named))
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
    build = commands.add_parser("build", help="build what is not cached, and list what is")
    build.add_argument("machine", nargs="*", metavar="MACHINE", help=f"one of {_all()}")
    for name, text in (
        ("shell", "boot a machine and give a shell on it"),
        ("run", "boot a machine, run the command behind --, pass its exit status on"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("machine", choices=MACHINES, metavar="MACHINE", help=_all())
        command.add_argument(
            "--deb", type=Path, action="append", default=[], help="a package to install first"
        )
    test = commands.add_parser(
        "test", help="run the tests of the program with a release's Python; -- PYTEST ARGS"
    )
    test.add_argument("machine", choices=MACHINES, metavar="MACHINE", help=_all())
    commands.add_parser("clean", help="remove what is cached, and dead machines")
    cut = argv.index("--") if "--" in argv else len(argv)
    arguments = parser.parse_args(argv[:cut])
    rest = argv[cut + 1 :]
    if arguments.command == "build" and not set(arguments.machine) <= set(MACHINES):
        parser.error(f"a machine is one of {_all()}")
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
            for name in arguments.machine or CONTAINERS:
                _build(name)
            for entry in cache.entries():
                print(entry)
            return 0
        case "test":
            return workbench.run_tests(arguments.machine, rest)
        case "clean":
            return _clean()
    with machine(arguments.machine) as device:
        if arguments.deb:
            device.install(*(deb.resolve(strict=True) for deb in arguments.deb))
        argv = rest or ["env", f"TERM={os.environ.get('TERM', 'dumb')}", "bash", "-i"]
        return subprocess.run(device.command(argv), check=False).returncode


def _build(name: str) -> None:
    target = TARGETS[name]
    if target.virtual:
        VirtualMachine(target).close()
        return
    for purpose in rootfs.PURPOSES:
        rootfs.root(target.release, purpose)


def _clean() -> int:
    in_use = workspace.sweep()
    if in_use:
        print(f"rig: {in_use} machines are in use; nothing but dead ones removed", file=sys.stderr)
        return _FAILED
    cache.clear()
    return 0


def _terminate(signum: int, frame: FrameType | None) -> NoReturn:
    sys.exit(128 + signum)  # so that machines are closed on the way out


def _all() -> str:
    return " ".join(MACHINES)


if __name__ == "__main__":
    sys.exit(main())
