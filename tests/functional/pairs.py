"""A server and a client that takes reads for messages, stopped at a random moment, many at once.

What the tests do a few times this does as often as one likes, and counts::

    PYTHONPATH=daemon:tests python3 -m functional.pairs [--rounds 50] [--pairs 16] [--pause 1]
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from signal import Signals
from threading import Timer
from typing import NamedTuple

from support import PATIENCE, Graced, Log, environment

SIGNALS = ("SIGHUP", "SIGINT", "SIGTERM", "SIGQUIT")
CLIENT = Path(__file__).with_name("tutorial_client.py")
GRACE = 5.0


class Outcome(NamedTuple):
    """How a pair ended."""

    client_status: int
    said_goodbye: bool
    """Whether the client found the farewell, and said so."""
    server_status: int
    seconds: float
    """From the signal to the server's end."""
    log: str
    """Both their words."""

    @property
    def good(self) -> bool:
        """Whether the contract was kept."""
        return (
            self.client_status == self.server_status == 0
            and self.said_goodbye
            and self.seconds < GRACE
        )


def run_pair(signame: str, pause: float, *options: str) -> Outcome:
    """Stop a server at a random moment while a client talks to it."""
    with Graced("--grace", str(GRACE), *options) as graced:
        host, _, port = graced.addresses[0].rpartition(":")
        read, write = os.pipe()
        client = subprocess.Popen(
            [sys.executable, str(CLIENT), host, port, str(pause)],
            stderr=write,
            env=environment(),
        )
        os.close(write)
        log = Log.of_pipe(read)
        try:
            log.wait_for("Received b'hello world'", random.randint(1, 2))
            timer = Timer(random.uniform(0, pause), graced.signal, [Signals[signame]])
            timer.start()
            client_status = client.wait(PATIENCE)
            timer.join()
            server_status = graced.wait()
        finally:
            client.kill()
            client.wait()
            log.close()
        return Outcome(
            client_status,
            log.lines[-1] == "INFO:root:Closing connection...",
            server_status,
            graced.stopped.seconds,
            f"{log}\n{graced.log}",
        )


def run_pairs(signames: Sequence[str], pause: float, *options: str) -> list[Outcome]:
    """A pair for each, all at the same time."""
    with ThreadPoolExecutor(len(signames)) as pool:
        return list(pool.map(lambda signame: run_pair(signame, pause, *options), signames))


def main() -> int:
    """Run as a program: count, and show what went wrong."""
    parser = argparse.ArgumentParser(prog="pairs", description=__doc__)
    parser.add_argument("--rounds", type=int, default=50, help="of each signal")
    parser.add_argument("--pairs", type=int, default=16, help="at a time")
    parser.add_argument("--pause", type=float, default=1.0, help="seconds of a client's sleep")
    parser.add_argument("--handler", default="echo")
    arguments = parser.parse_args()
    count: Counter[str] = Counter()
    slowest = 0.0
    for number in range(arguments.rounds):
        for signame in SIGNALS:
            options = ("--handler", arguments.handler)
            for outcome in run_pairs([signame] * arguments.pairs, arguments.pause, *options):
                count[signame] += 1
                count["missed"] += not outcome.good
                slowest = max(slowest, outcome.seconds)
                if not outcome.good:
                    print(f"--- {signame}: {outcome[:4]}\n{outcome.log}", flush=True)
        print(f"round {number + 1}: {dict(count)}, slowest stop {slowest:.3f} s", flush=True)
    return min(1, count["missed"])


if __name__ == "__main__":
    sys.exit(main())
