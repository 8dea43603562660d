"""Whole runs of the program, thousands of them: forked from a process that has it loaded already.

A run is what ``python -m graced`` does, from `graced.app.cli.main` to the exit status, in a process
of its own; but nothing has to be imported for it, so it takes milliseconds.  A run that would serve
has a SIGTERM waiting from the start, so it starts, serves, drains and stops.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple

from support import PATIENCE, environment

_ME = "robustness.forge"


class Outcome(NamedTuple):
    """What became of a run."""

    status: int
    """Or the negative number of the signal that killed it."""
    out: str
    err: str


class Forge:
    """The process that runs are forked from; a context manager."""

    def __init__(self, directory: Path) -> None:
        """`directory`: where the runs are at."""
        self._directory = directory

    def __enter__(self) -> Forge:
        self._process = subprocess.Popen(
            [sys.executable, "-m", _ME],
            cwd=self._directory,
            # sdnotify leaves it to the garbage collector to close what it could not connect.
            env=environment({"PYTHONWARNINGS": "error,ignore::ResourceWarning"}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _value: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(PATIENCE)

    def run(
        self,
        *arguments: str,
        env: Mapping[str, str] | None = None,
        journal: bool = False,
        fds: Sequence[int] = (),
    ) -> Outcome:
        """Run ``graced ARGUMENTS``.

        `env`: additions to the environment, where ``{pid}`` stands for the run's own pid;
        `journal`: JOURNAL_STREAM names stderr; `fds`: sockets, by kind, to be passed from 3 on.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        order = {
            "arguments": [os.fsencode(argument).hex() for argument in arguments],
            "env": {name: os.fsencode(value).hex() for name, value in (env or {}).items()},
            "journal": journal,
            "fds": list(fds),
        }
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the forge is broken"
        return Outcome(*json.loads(answer))


# Inside of the process.


def _main() -> None:
    from graced.app import check, cli

    check.import_everything()
    with os.fdopen(os.dup(0), "rb") as orders, os.fdopen(os.dup(1), "wb") as answers:
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)
        _work(cli.main, orders, answers)


def _work(main: Callable[[list[str]], object], orders: BinaryIO, answers: BinaryIO) -> None:
    for line in orders:
        order = json.loads(line)
        out, err = os.memfd_create("out"), os.memfd_create("err")
        if not (child := os.fork()):
            try:
                _become(order, out, err)
                main([os.fsdecode(bytes.fromhex(text)) for text in order["arguments"]])
            finally:
                os._exit(99)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        said = [os.pread(fd, 1 << 20, 0).decode("utf-8", "replace") for fd in (out, err)]
        os.close(out)
        os.close(err)
        answers.write(json.dumps([status, *said]).encode() + b"\n")
        answers.flush()


def _become(order: dict[str, object], out: int, err: int) -> None:
    """What a caller, or a service manager, would have prepared."""
    import signal
    import socket

    # Twenty seconds are for ever.
    signal.alarm(20)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    os.kill(os.getpid(), signal.SIGTERM)
    os.dup2(out, 1)
    os.dup2(err, 2)
    env = order["env"]
    assert isinstance(env, dict)
    for name, value in env.items():
        text = bytes.fromhex(value).replace(b"{pid}", b"%d" % os.getpid())
        os.environb[name.encode()] = text
    if order["journal"]:
        status = os.fstat(2)
        os.environ["JOURNAL_STREAM"] = f"{status.st_dev}:{status.st_ino}"
    kinds = order["fds"]
    assert isinstance(kinds, list)
    for fd in range(3, 64):
        try:
            os.close(fd)
        except OSError:
            # There was none of that number.
            continue
    for fd, kind in enumerate(kinds, start=3):
        if kind == 0:
            made = os.open(os.devnull, os.O_RDWR)
        else:
            sock = socket.socket(type=socket.SOCK_DGRAM if kind == 1 else socket.SOCK_STREAM)
            sock.bind(("127.0.0.1", 0))
            if kind == 3:
                sock.listen()
            made = sock.detach()
        assert made == fd
        os.set_inheritable(fd, True)


if __name__ == "__main__":
    _main()
