#!/usr/bin/env python3
"""A hundred thousand connections, one after the other: does anything grow?

Clients come at a bounded rate, fifty at once, and leave in every way there is.  When all are
gone memory, descriptors and threads are looked at.  From the second fifth (the first is the
warm-up) to the last memory may grow by less than one per cent, and descriptors and threads must be
what they were before the first client.  The exit status is 1 where they are not.
"""

from __future__ import annotations

import argparse
import resource
import socket
import struct
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from random import Random
from signal import SIGTERM
from typing import NamedTuple

from robustness.measure import Usage, median
from support import Client, Graced, own_orphans

AT_ONCE = 50
ROWS = 20
WARM_UP = ROWS // 5
GROWTH = 0.01
ADDRESSES = [f"127.0.0.{number}:0" for number in range(1, 9)]
"""More than one: a port whose connection was closed politely cannot be used again for a minute."""
CONFIG = """
[limits]
max_clients = 1000
idle_timeout = 60
"""
RST = struct.pack("ii", 1, 0)


class Row(NamedTuple):
    """What there is when nobody is there."""

    connections: int
    seconds: float
    memory: int
    descriptors: int
    threads: int
    cpu: float

    def __str__(self) -> str:
        return (
            f"{self.connections:>11,} {self.seconds:>8.1f} {self.memory / 1024:>10,.0f}"
            f" {self.descriptors:>11} {self.threads:>7} {self.cpu:>7.1f}"
        )


HEADER = "connections  seconds   RSS, KiB descriptors threads  cpu, s"


def main() -> int:
    """Parse the arguments, soak each kind of server, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--connections", type=int, default=100_000, metavar="NUMBER")
    parser.add_argument("--rate", type=int, default=1_000, metavar="PER_SECOND", help="at most")
    parser.add_argument("--handler", action="append", metavar="NAME", help="default: both echoes")
    arguments = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    wrong = []
    for handler in arguments.handler or ["echo", "echo-threaded"]:
        print(f"\n{handler}\n{HEADER}", flush=True)
        with own_orphans():
            wrong += [f"{handler}: {problem}" for problem in soak(handler, arguments)]
    for problem in wrong:
        print(problem, file=sys.stderr)
    return 1 if wrong else 0


def soak(handler: str, arguments: argparse.Namespace) -> list[str]:
    """Returns what was wrong."""
    dice = Random(862)
    each = max(AT_ONCE, arguments.connections // ROWS)
    with Graced("--handler", handler, "--grace", "5", listen=ADDRESSES, config=CONFIG) as graced:
        usage = Usage(graced.pid)
        addresses = graced.addresses
        began = time.monotonic()
        rows = [measure(usage, 0, began)]
        print(rows[0], flush=True)
        for number in range(1, ROWS + 1):
            with bounded(each / arguments.rate):
                for _ in range(each // AT_ONCE):
                    crowd(addresses, dice)
            settle(addresses, usage, rows[0])
            rows.append(measure(usage, number * each, began))
            print(rows[-1], flush=True)
        graced.signal(SIGTERM)
        status = graced.wait()
        tracebacks = graced.log.count("Traceback")
    return list(judge(rows, status, tracebacks))


@contextmanager
def bounded(seconds: float) -> Iterator[None]:
    """What is faster waits."""
    end = time.monotonic() + seconds
    yield
    time.sleep(max(0.0, end - time.monotonic()))


def crowd(addresses: Sequence[str], dice: Random) -> None:
    """Fifty clients at once, each of which talks a little and leaves in its own way."""
    clients = [Client.connect(addresses[i % len(addresses)]) for i in range(AT_ONCE)]
    for client in clients:
        client.send(bytes(dice.choice([1, 64, 1500, 20_000])))
    for number, client in enumerate(clients):
        WAYS[number % len(WAYS)](client)


def leave(client: Client) -> None:
    """Politely, with the echo unread."""
    client.close()


def hear_out(client: Client) -> None:
    """Politely, when the echo has come."""
    client.recv()
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST)
    client.close()


def break_off(client: Client) -> None:
    """With a RST."""
    client.reset()


def half_close(client: Client) -> None:
    """Listening to the end."""
    client.finish()
    client.recv_to_end()
    client.close()


def choke(client: Client) -> None:
    """With the server waiting until its answer is taken."""
    client.sock.setblocking(False)
    try:
        while True:
            client.sock.send(bytes(1 << 18))
    except BlockingIOError:
        client.reset()


WAYS = [leave, hear_out, break_off, half_close, hear_out, break_off, hear_out, break_off, choke]


def settle(addresses: Sequence[str], usage: Usage, first: Row) -> None:
    """Until nobody is there: clients that leave are noticed in the order in which they did."""
    for address in addresses:
        with Client.connect(address) as last:
            last.echo(b"the last one")
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        if (len(usage.descriptors), usage.threads) == (first.descriptors, first.threads):
            return
        time.sleep(0.01)


def measure(usage: Usage, connections: int, began: float) -> Row:
    """Look."""
    return Row(
        connections,
        time.monotonic() - began,
        usage.memory,
        len(usage.descriptors),
        usage.threads,
        usage.cpu,
    )


def judge(rows: list[Row], status: int, tracebacks: int) -> Iterator[str]:
    """What is wrong."""
    first, last = rows[0], rows[-1]
    # Threads that come and go share the heap differently each time: not one row, but a few.
    early = median([row.memory for row in rows[WARM_UP : 2 * WARM_UP]])
    late = median([row.memory for row in rows[-WARM_UP:]])
    growth = late / early - 1
    print(f"memory has grown by {100 * growth:.2f} % since the warm-up")
    if growth >= GROWTH:
        yield f"memory has grown by {100 * growth:.2f} %"
    if last.descriptors != first.descriptors:
        yield f"{first.descriptors} descriptors have become {last.descriptors}"
    if last.threads != first.threads:
        yield f"{first.threads} threads have become {last.threads}"
    if status:
        yield f"the exit status is {status}"
    if tracebacks:
        yield f"{tracebacks} tracebacks in the log"


if __name__ == "__main__":
    sys.exit(main())
