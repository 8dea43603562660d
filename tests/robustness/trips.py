"""Round trips, measured by a process of its own.

``python -m robustness.trips ADDRESS...`` connects `GOOD` clients, and for each number of seconds on
stdin says the 99th percentile, in seconds, of the round trips they have made meanwhile.  In the
tests' process a thread reads the log of the server, and Python does one thing at a time: with a
storm of connections in the log that alone was half of what was measured.
"""

from __future__ import annotations

import subprocess
import sys
from contextlib import ExitStack
from types import TracebackType

from robustness.measure import percentile, ping_pong
from support import PATIENCE, Client, environment

GOOD = 16


class Trips:
    """Such a process, as a context manager."""

    def __init__(self, addresses: list[str]) -> None:
        self._command = [sys.executable, "-m", "robustness.trips", *addresses]

    def __enter__(self) -> Trips:
        self._process = subprocess.Popen(
            self._command,
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def percentile(self, seconds: float) -> float:
        """The 99th of the next `seconds`."""
        assert self._process.stdin
        assert self._process.stdout
        print(seconds, file=self._process.stdin, flush=True)
        return float(self._process.stdout.readline())

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _value: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self._process.communicate(timeout=PATIENCE)


def main() -> None:
    """The process."""
    addresses = sys.argv[1:]
    with ExitStack() as stack:
        clients = [
            stack.enter_context(Client.connect(addresses[number % len(addresses)]))
            for number in range(GOOD)
        ]
        for line in sys.stdin:
            print(percentile(ping_pong(clients, float(line)), 99), flush=True)


if __name__ == "__main__":
    main()
