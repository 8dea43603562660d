"""What the servers are made to do, and what is measured while they do it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from provision import BUILD, MissingError
from servers import Kind, Server

Values = dict[str, float]
MIB = 1024 * 1024
FAREWELL_PATIENCE = 15.0
QUIET = 0.5
"""Seconds for which clients have been silent when they are idle."""
CHURN_CONCURRENCY = 4
"""Fewer than the shortest listen backlog, or one server would wait for retransmissions."""


class Sizes(NamedTuple):
    """How much of everything."""

    rounds: int
    seconds: float
    """Of one ping-pong or bulk."""
    connections: int
    """Of one churn; a twentieth for servers that start a process for each."""
    idle_clients: tuple[int, ...]
    farewell_clients: tuple[int, ...]
    starts: int
    idle_seconds: float
    budget: float
    """Seconds in which all of it ends; what remains then is left out."""


FULL = Sizes(7, 1.0, 6000, (1000, 10_000), (1000, 5000, 10_000), 25, 10.0, 1380.0)
QUICK = Sizes(2, 0.25, 1000, (1000,), (1000, 5000), 5, 2.0, 168.0)


class Processors(NamedTuple):
    """Where what runs."""

    servers: str
    load: str


def processors(pinned: bool) -> Processors:
    """Servers on one processor and the load on another, or both wherever the kernel likes."""
    usable = sorted(os.sched_getaffinity(0))
    if not pinned or len(usable) < 2:
        return Processors("any", "any")
    os.sched_setaffinity(0, {usable[1]})
    return Processors(str(usable[0]), str(usable[1]))


class Watch:
    """How much of the machine others use, from construction on."""

    def __init__(self, servers: Iterable[Server]) -> None:
        self._servers = list(servers)
        self._start = time.monotonic()
        self._busy = self._all()
        self._own = self._ours()

    @staticmethod
    def _all() -> float:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
        user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields[:8])
        busy = user + nice + system + irq + softirq + steal
        return busy / os.sysconf("SC_CLK_TCK")

    def _ours(self) -> float:
        total = sum(server.cpu_seconds() for server in self._servers)
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
            usage = resource.getrusage(who)
            total += usage.ru_utime + usage.ru_stime
        return total

    def others(self) -> float:
        """Processors that others have used since, on average."""
        busy, own = self._all() - self._busy, self._ours() - self._own
        return max(0.0, busy - own) / (time.monotonic() - self._start)


class Load:
    """The load generator, started, as a context manager."""

    def __init__(self, cpu: str, *arguments: object) -> None:
        load = str(BUILD / "load")
        self._what = " ".join(map(str, arguments[:3]))
        self._process = subprocess.Popen(
            [load, "become", cpu, load, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def __enter__(self) -> Load:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._process.kill()
        self._process.communicate()

    def line(self) -> dict[str, float]:
        """The next result.  Raises `MissingError` with what went wrong."""
        output: IO[bytes] | None = self._process.stdout
        assert output
        text = output.readline()
        if not text:
            _rest, errors = self._process.communicate()
            reason = errors.decode(errors="replace").strip() or "ended without a result"
            raise MissingError(f"{self._what}: {reason}")
        result: dict[str, float] = json.loads(text)
        return result

    def result(self) -> dict[str, float]:
        """The last result, after the end."""
        value = self.line()
        self._process.communicate()
        return value


def ping_pong(server: Server, cpu: str, clients: int, seconds: float) -> Values:
    """Round trips of 64 bytes."""
    with Load(cpu, "ping-pong", server.port, clients, seconds, server.pid) as load:
        result = load.result()
    values = {key: result[key] for key in ("per_second", "p50_us", "p99_us", "p999_us")}
    if not server.kind.forks:
        values["cpu_us"] = result["server_cpu_us"]
    return values


def bulk(server: Server, cpu: str, clients: int, seconds: float) -> Values:
    """As many bytes as go."""
    with Load(cpu, "bulk", server.port, clients, seconds) as load:
        return {"mib_per_second": load.result()["bytes_per_second"] / MIB}


def churn(server: Server, cpu: str, connections: int) -> Values:
    """Connections with one echo each."""
    if server.kind.forks:
        connections //= 20
    warm_up = connections // 10
    with Load(cpu, "churn", server.port, CHURN_CONCURRENCY, warm_up) as load:
        load.result()
    server.settle()
    before = server.cpu_seconds()
    with Load(cpu, "churn", server.port, CHURN_CONCURRENCY, connections) as load:
        result = load.result()
    server.settle()
    used = server.cpu_seconds() - before
    return {"cpu_us": used / connections * 1e6, "per_second": result["per_second"]}


def first_echo(kind: Kind, places: Processors) -> Values:
    """From exec to the first echo."""
    server = Server(kind, places.servers)
    arguments = (server.port, places.servers, *server.command)
    with Load(places.load, "first-echo", *arguments) as load:
        return {"ms": load.result()["first_echo_ms"]}


@contextlib.contextmanager
def idle_clients(server: Server, cpu: str, count: int) -> Iterator[None]:
    """Clients that have been echoed once and say nothing more."""
    with Load(cpu, "hold", server.port, count) as load:
        load.line()
        yield


def memory(kind: Kind, places: Processors, count: int) -> Values:
    """Bytes for each idle client, bookkeeping, kernel stacks and all."""
    with Server(kind, places.servers, count) as server:
        with Load(places.load, "churn", server.port, 1, 8) as load:
            load.result()
        server.settle()
        before = server.memory()
        with idle_clients(server, places.load, count):
            server.settle()
            return {"kib": (server.memory() - before) / 1024 / count}


def resident(kind: Kind, places: Processors) -> Values:
    """Resident memory of a server that has echoed and has no client, part by part."""
    with Server(kind, places.servers) as server:
        with Load(places.load, "churn", server.port, 1, 8) as load:
            load.result()
        server.settle()
        parts = server.resident()
        return {"total": sum(parts.values()) / MIB} | {k: v / MIB for k, v in parts.items()}


def farewell(kind: Kind, places: Processors, count: int) -> Values:
    """From SIGTERM until clients hear of it, and until the server has gone."""
    with (
        Server(kind, places.servers, count) as server,
        Load(places.load, "farewell", server.port, count, FAREWELL_PATIENCE) as load,
    ):
        load.line()
        time.sleep(QUIET)
        start = server.terminate()
        end = server.wait(FAREWELL_PATIENCE)
        result = load.result()
    values = {"told": result["told"], "exit_ms": (end - start) / 1e6}
    if result["told"]:
        values["first_ms"] = (result["first_ns"] - start) / 1e6
        values["median_ms"] = (result["median_ns"] - start) / 1e6
        values["last_ms"] = (result["last_ns"] - start) / 1e6
    return values


def idle(
    kinds: Iterable[Kind],
    places: Processors,
    count: int,
    seconds: float,
    failed: Callable[[Kind, Exception], None],
) -> dict[str, Values]:
    """System calls and context switches of all servers with idle clients, at the same time."""
    with contextlib.ExitStack() as stack:
        servers = []
        for kind in kinds:
            try:
                server = stack.enter_context(Server(kind, places.servers))
                stack.enter_context(idle_clients(server, places.load, count))
                servers.append(server)
            except MissingError as error:
                failed(kind, error)
        time.sleep(QUIET)
        before = [server.switches() for server in servers]
        time.sleep(seconds)
        switches = [server.switches() - b for server, b in zip(servers, before, strict=True)]
        calls = _system_calls([server.pids() for server in servers], seconds)
    return {
        server.kind.name: {"switches": float(s), "calls": float(c)}
        for server, s, c in zip(servers, switches, calls, strict=True)
    }


def _system_calls(groups: list[list[int]], seconds: float) -> list[int]:
    """What strace sees of each group of processes.

    Attaching interrupts the calls that wait, and they are begun anew: the first second does not
    count.
    """
    if not Path("/usr/bin/strace").exists():
        raise MissingError("idle system calls: strace is not installed")
    with contextlib.ExitStack() as stack:
        tracers = []
        for pids in groups:
            output = stack.enter_context(tempfile.NamedTemporaryFile("r"))
            attach = [argument for pid in pids for argument in ("-p", str(pid))]
            tracer = subprocess.Popen(
                ["/usr/bin/strace", "-f", "-ttt", "-o", output.name, *attach],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            stack.callback(tracer.wait)
            stack.callback(tracer.send_signal, signal.SIGTERM)
            tracers.append(output)
        time.sleep(1.0)
        start = time.time()
        time.sleep(seconds)
        end = time.time()
        stamp = re.compile(r"^(?:\d+ +)?(\d+\.\d+) (?!<)\w+\(", re.MULTILINE)
        return [
            sum(start <= float(when) <= end for when in stamp.findall(output.read()))
            for output in tracers
        ]


def machine() -> dict[str, Any]:
    """What the figures are worth nothing without."""
    uname = os.uname()
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    release = Path("/etc/os-release").read_text()
    name = re.search(r'PRETTY_NAME="(.*)"', release)
    return {
        "processor": model[1] if model else uname.machine,
        "processors": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1024**3),
        "system": name[1] if name else uname.sysname,
        "kernel": uname.release.split("-")[0],
    }
