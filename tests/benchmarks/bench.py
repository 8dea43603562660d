#!/usr/bin/python3
"""`make bench`: graced as shipped beside its peers, measured in turns.

    /usr/bin/python3 tests/benchmarks/bench.py [--quick] [--output DIRECTORY]

needs Debian 12, root and its archive; it fetches what is missing (see provision.py), talks to
loopback addresses only, and leaves report.md, results.json and plot.png.

What makes the figures comparable
    All servers of a round run at the same time, idle but for the one that is asked, and every
    piece of work goes through all of them within seconds, in an order that rotates.  Ratios are
    taken within a round; the median of the rounds and their extremes are printed.  All Python
    servers are run by the same isolated interpreter; all of them write their log to /dev/null.
    A measurement during which others used more than `OTHERS` of a processor is repeated, a
    bounded number of times, and marked when it never was quiet.

Where things run
    The kernel places everything, as it does for whoever uses these servers.  Pinning (`--pinned`:
    servers on one processor, load on another) was tried: it changes nothing for a server with one
    thread, neither its figures nor their spread, but it spares a Python server with many threads
    the fight for the GIL across processors, which is what costs it most in life: the article's
    server needed up to a third less CPU time for a round trip.  The price: while others use the
    machine the kernel may put a single client and its server on one processor, where a round trip
    is two to three times as fast; on a busy machine compare that row with `--pinned`.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

import report
import workloads
from provision import (
    BUILD,
    HERE,
    TOP,
    MissingError,
    environment,
    packages,
    program,
    run,
    say,
    versions,
)
from report import OTHERS, Results, Sample
from servers import Kind, Server, kinds
from workloads import FULL, QUICK, Processors, Sizes, Values, Watch

ATTEMPTS = 3
"""At one measurement that others disturb."""
REPEATS = 0.15
"""Of all time, at most, is spent on repeating and on waiting for a quiet moment."""
GLANCE = 0.05
"""Seconds for which the machine is looked at to see whether it is quiet."""
MOST_GLANCES = 40

PARTS = ("start", "idle", "memory", "exchange", "farewell")
PING_PONG = (1, 16, 128, 1000)
BULK = (1, 8)


class Bench:
    """One run: what takes part, how long it may last, and what came out."""

    def __init__(self, sizes: Sizes, only: list[str] | None) -> None:
        self.sizes = sizes
        self.only = only
        self.places = Processors("any", "any")
        self.kinds: list[Kind] = []
        self.left_out: list[str] = []
        self.results: Results = {}
        self.begun = time.monotonic()
        self.repeating = 0.0

    def remains(self) -> float:
        """Seconds."""
        return self.begun + self.sizes.budget - time.monotonic()

    def gather(self) -> None:
        """Build and fetch everything."""
        packages()
        program("load")
        with suppress(MissingError):
            environment("plot", "matplotlib")
        for kind in kinds():
            if isinstance(kind, MissingError):
                self.without(str(kind))
            elif not self.only or kind.name in self.only:
                self.kinds.append(kind)

    def without(self, why: str) -> None:
        """Say what is left out."""
        if why not in self.left_out:
            self.left_out.append(why)
            say(f"bench: left out: {why}")

    def failed(self, kind: Kind, error: Exception) -> None:
        """A server could not do a piece of work."""
        self.without(f"{kind.label}: {error}")

    def taking_part(self, group: str, clients: int = 0, idle: bool = False) -> list[Kind]:
        """The servers that do a kind of work with so many clients."""
        return [
            kind
            for kind in self.kinds
            if (not kind.works or group in kind.works)
            and clients <= (kind.idle if idle else kind.most)
        ]

    def await_calm(self, servers: Iterable[Server]) -> None:
        """Wait until nobody uses the machine, not for ever."""
        for _ in range(MOST_GLANCES):
            watch = Watch(servers)
            time.sleep(GLANCE)
            # The kernel counts in hundredths of a second: one of them does not mean anything.
            if watch.others() <= 2 * OTHERS or self.repeating > REPEATS * self.sizes.budget:
                return
            self.repeating += GLANCE

    def measure(
        self, work: str, kind: Kind, servers: Iterable[Server], do: Callable[[], Values]
    ) -> None:
        """Do a piece of work until nobody disturbs it, and keep the quietest result."""
        best: Sample | None = None
        for attempt in range(ATTEMPTS):
            self.await_calm(servers)
            watch = Watch(servers)
            start = time.monotonic()
            try:
                values = do()
            except MissingError as error:
                self.failed(kind, error)
                break
            others = watch.others()
            if best is None or others < best["others"]:
                best = {"values": values, "others": round(others, 3)}
            lasted = time.monotonic() - start
            if attempt:
                self.repeating += lasted
            if others <= OTHERS or self.repeating + lasted > REPEATS * self.sizes.budget:
                break
        self.note(work, kind, best)

    def rounds(self, name: str, count: int, one: Callable[[int], None]) -> None:
        """Repeat as often as asked and as time allows."""
        longest = 0.0
        for index in range(count):
            if self.remains() < longest:
                say(f"bench: out of time after {index} of {count} rounds of {name}")
                return
            start, repeating = time.monotonic(), self.repeating
            one(index)
            lasted = time.monotonic() - start
            longest = max(longest, lasted - (self.repeating - repeating))
            say(f"bench: {name}, round {index + 1} of {count}: {lasted:.0f} s")

    def exchange(self, index: int) -> None:
        """One round of everything in which messages go to and fro."""
        sizes, cpu = self.sizes, self.places.load
        with ExitStack() as stack:
            servers: dict[str, Server] = {}
            for kind in self.kinds:
                try:
                    servers[kind.name] = stack.enter_context(Server(kind, self.places.servers))
                except MissingError as error:
                    self.failed(kind, error)

            def turn(group: str, clients: int, do: Callable[..., Values], *size: float) -> None:
                work = group if group == "churn" else f"{group} {clients}"
                for kind in rotated(self.taking_part(group, clients), index):
                    if server := servers.get(kind.name):
                        server.settle()
                        self.measure(work, kind, servers.values(), partial(do, server, cpu, *size))
                    else:
                        self.note(work, kind, None)

            for clients in PING_PONG:
                turn("ping-pong", clients, workloads.ping_pong, clients, sizes.seconds)
            for clients in BULK:
                turn("bulk", clients, workloads.bulk, clients, sizes.seconds)
            turn("churn", 1, workloads.churn, sizes.connections)

    def starts(self, index: int) -> None:
        """One start of every server."""
        for kind in rotated(self.taking_part("start", 1), index):
            self.measure("start", kind, (), partial(workloads.first_echo, kind, self.places))

    def farewells(self, index: int) -> None:
        """One stop of every server with each number of clients."""
        for clients in self.sizes.farewell_clients:
            those = self.taking_part("farewell", clients, idle=True)
            for kind in rotated([kind for kind in those if kind.tells], index):
                do = partial(workloads.farewell, kind, self.places, clients)
                self.measure(f"farewell {clients}", kind, (), do)

    def memories(self, _index: int) -> None:
        """Memory of every server with each number of idle clients."""
        for clients in self.sizes.idle_clients:
            for kind in self.taking_part("memory", clients, idle=True):
                do = partial(workloads.memory, kind, self.places, clients)
                self.keep(f"memory {clients}", kind, do)
        for kind in self.taking_part("memory", 1, idle=True):
            self.keep("resident", kind, partial(workloads.resident, kind, self.places))

    def keep(self, work: str, kind: Kind, do: Callable[[], Values]) -> None:
        """A measurement that others cannot disturb."""
        try:
            sample: Sample = {"values": do(), "others": 0.0}
        except MissingError as error:
            self.failed(kind, error)
            return
        self.note(work, kind, sample)

    def note(self, work: str, kind: Kind, sample: Sample | None) -> None:
        """One more round of a piece of work is done, or could not be."""
        self.results.setdefault(work, {}).setdefault(kind.name, []).append(sample)

    def idle(self, _index: int) -> None:
        """What every server does when there is nothing to do."""
        try:
            values = workloads.idle(
                self.taking_part("idle", 100, idle=True),
                self.places,
                100,
                self.sizes.idle_seconds,
                self.failed,
            )
        except MissingError as error:
            self.without(str(error))
            return
        self.results["idle"] = {
            name: [{"values": value, "others": 0.0}] for name, value in values.items()
        }

    def run(self, parts: Sequence[str]) -> None:
        """Everything, or some parts of it."""
        sizes = self.sizes
        if "start" in parts:
            self.rounds("first echo", sizes.starts, self.starts)
        if "idle" in parts:
            self.rounds("idle", 1, self.idle)
        if "memory" in parts:
            self.rounds("memory", 1, self.memories)

        def longest(index: int) -> None:
            if "exchange" in parts:
                self.exchange(index)
            if "farewell" in parts:
                self.farewells(index)

        if {"exchange", "farewell"} & set(parts):
            self.rounds("exchange and farewell", sizes.rounds, longest)

    def document(self) -> dict[str, Any]:
        """All that is known."""
        return {
            "machine": workloads.machine(),
            "versions": versions(),
            "command": "make bench QUICK=1" if self.sizes is QUICK else "make bench",
            "sizes": self.sizes._asdict(),
            "processors": self.places._asdict(),
            "labels": {kind.name: kind.label for kind in self.kinds},
            "left_out": self.left_out,
            "minutes": round((time.monotonic() - self.begun) / 60, 1),
            "results": self.results,
        }


def rotated(those: list[Kind], by: int) -> list[Kind]:
    """Another one goes first each time."""
    by %= max(1, len(those))
    return those[by:] + those[:by]


def draw(results: Path, picture: Path) -> None:
    """Make the plot, where matplotlib can be had."""
    try:
        environment("plot", "matplotlib")
        run([BUILD / "plot/bin/python", HERE / "plot.py", results, picture])
    except MissingError as error:
        say(f"bench: no plot: {error}")


def interrupted(*_arguments: object) -> None:
    """Make SIGTERM what SIGINT is, so that everything that was started is ended."""
    raise KeyboardInterrupt


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description="Measure graced beside its peers.")
    parser.add_argument("--quick", action="store_true", help="in under 3 minutes, less exactly")
    parser.add_argument("--output", type=Path, default=TOP / "dist/bench", metavar="DIRECTORY")
    parser.add_argument("--pinned", action="store_true", help="servers and load on one CPU each")
    parser.add_argument("--only", metavar="NAMES", help="these servers, with commas between")
    parser.add_argument("--part", choices=PARTS, action="append", help="this only; repeatable")
    parser.add_argument(
        "--device", type=Path, metavar="JSON", help="results of a device to be shown as well"
    )
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, interrupted)
    bench = Bench(
        QUICK if options.quick else FULL, options.only.split(",") if options.only else None
    )
    try:
        bench.gather()
        bench.places = workloads.processors(pinned=options.pinned)
        bench.run(options.part or PARTS)
    except KeyboardInterrupt:
        say("bench: interrupted")
        return 130
    except MissingError as error:
        say(f"bench: {error}")
        return 1
    document = bench.document()
    if options.device:
        document["results"] |= json.loads(options.device.read_text())
    options.output.mkdir(parents=True, exist_ok=True)
    results = options.output / "results.json"
    results.write_text(json.dumps(document, indent=1) + "\n")
    text = report.text(document)
    (options.output / "report.md").write_text(text)
    draw(results, options.output / "plot.png")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
