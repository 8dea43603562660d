"""Tables of what was measured, and whether it is what was asked for."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

Sample = dict[str, Any]
"""``values``: what was measured; ``others``: what other processes used meanwhile."""
Results = dict[str, dict[str, list[Sample | None]]]
"""By piece of work, server and round."""

OTHERS = 0.10
"""Of one processor: what others may use during a measurement that counts as quiet."""
BUSY = 0.25
"""The share of measurements that were disturbed, from which on nothing is judged."""
ENOUGH = 3
"""Rounds that nobody disturbed; where there are as many, the others do not count."""
REFERENCE = "c-epoll"
NOTHING = "-"


class Spread(NamedTuple):
    """A median and its extremes."""

    median: float
    low: float
    high: float
    disturbed: bool = False


def _spread(values: Sequence[tuple[float, bool]]) -> Spread | None:
    """Of values that were disturbed or not: the latter count where there are enough of them."""
    quiet = [value for value, disturbed in values if not disturbed]
    enough = len(quiet) >= min(ENOUGH, len(values))
    chosen = quiet if enough else [value for value, _disturbed in values]
    if not chosen:
        return None
    return Spread(statistics.median(chosen), min(chosen), max(chosen), not enough)


def _disturbed(*samples: Sample) -> bool:
    return any(sample["others"] > OTHERS for sample in samples)


def figure(results: Results, work: str, server: str, key: str) -> Spread | None:
    """What a server reached."""
    samples = results.get(work, {}).get(server, [])
    return _spread([(s["values"][key], _disturbed(s)) for s in samples if s and key in s["values"]])


def ratio(results: Results, work: str, server: str, key: str, to: str = REFERENCE) -> Spread | None:
    """What a server reached in terms of another in the same round."""
    servers = results.get(work, {})
    pairs = zip(servers.get(server, []), servers.get(to, []), strict=False)
    return _spread(
        [
            (a["values"][key] / b["values"][key], _disturbed(a, b))
            for a, b in pairs
            if a and b and key in a["values"] and b["values"].get(key)
        ]
    )


def number(value: float) -> str:
    """Three digits that matter."""
    size = abs(value)
    if size >= 100:
        return f"{value:,.0f}"
    if size >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}"


def _cell(spread: Spread | None) -> str:
    if spread is None:
        return NOTHING
    text = number(spread.median)
    if spread.low != spread.high:
        text += f" ({number(spread.low)}-{number(spread.high)})"
    return text + ("*" if spread.disturbed else "")


def _brief(spread: Spread | None) -> str:
    return number(spread.median) if spread else NOTHING


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown that can be read as it is."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = [[*head], ["-" * (width - 1) + (":" if i else "-") for i, width in enumerate(widths)]]
    lines += [[*row] for row in rows]
    return "\n".join(
        "| "
        + " | ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        + " |"
        for line in lines
    )


class _Column(NamedTuple):
    head: str
    cell: Callable[[str], str]


def _column(
    head: str, results: Results, work: str, key: str, of: Callable[..., Spread | None]
) -> _Column:
    return _Column(head, lambda name: _cell(of(results, work, name, key)))


def _by_server(labels: dict[str, str], columns: Sequence[_Column]) -> str:
    rows = []
    for name, label in labels.items():
        cells = [column.cell(name) for column in columns]
        if any(cell.strip(f"{NOTHING} /") for cell in cells):
            rows.append([label, *cells])
    return table(["", *(column.head for column in columns)], rows)


def _sizes(results: Results, work: str) -> list[int]:
    return sorted(int(name.split()[1]) for name in results if name.startswith(f"{work} "))


class Target(NamedTuple):
    """One thing that was asked for."""

    work: str
    what: str
    value: Spread | None
    reach: float
    stretch: float
    at_least: bool

    def verdict(self, *, judged: bool = True) -> str:
        """In a word; none where figures are not judged."""
        if self.value is None:
            return "not measured"
        if not judged:
            return NOTHING

        def fits(limit: float) -> bool:
            value = self.value.median if self.value else 0.0
            return value >= limit if self.at_least else value <= limit

        if fits(self.stretch):
            return "stretch reached"
        return "reached" if fits(self.reach) else "NOT REACHED"

    def row(self, *, judged: bool) -> list[str]:
        """Of the table."""
        sign = "≥" if self.at_least else "≤"
        return [
            self.work,
            self.what,
            _cell(self.value),
            f"{sign} {self.reach:g}",
            f"{self.stretch:g}",
            self.verdict(judged=judged),
        ]


def targets(results: Results) -> list[Target]:
    """Everything that was asked for."""

    def against(work: str, key: str, to: str = REFERENCE, server: str = "graced") -> Spread | None:
        return ratio(results, work, server, key, to)

    def plain(work: str, key: str) -> Spread | None:
        return figure(results, work, "graced", key)

    def quiet_churn() -> Spread | None:
        return against("churn", "cpu_us", server="graced-quiet")

    def handlers(clients: int) -> list[Target]:
        """The same protocol class, by itself and in graced."""
        work = f"ping-pong {clients}"
        wanted: list[tuple[str, str, float, float]] = [
            ("graced-stream", "uvloop", 0.95, 1.05),
            ("graced-stream", "asyncio", 1.15, 1.15),
            ("graced-stream", REFERENCE, 0.80, 0.80),
            ("graced-asyncio", "asyncio", 0.95, 1.0),
            ("graced-uvloop", "uvloop", 0.95, 1.0),
        ]
        return [
            Target(
                f"{server} {clients}",
                f"x {to}",
                against(work, rate, to, server),
                reach,
                stretch,
                more,
            )
            for server, to, reach, stretch in wanted
        ]

    def threaded(clients: int) -> Spread | None:
        return against(f"ping-pong {clients}", rate, "threading", "graced-threaded")

    rate, speed = "per_second", "mib_per_second"
    more, less = True, False
    p1, p16, p128, p1000 = (f"ping-pong {n}" for n in (1, 16, 128, 1000))
    farewell = "farewell 5000"
    return [
        Target(p1, "x C epoll", against(p1, rate), 0.95, 1.0, more),
        Target(p16, "x C epoll", against(p16, rate), 0.90, 0.95, more),
        Target(p16, "x uvloop", against(p16, rate, "uvloop"), 1.0, 1.05, more),
        Target(p16, "x the article's", against(p16, rate, "article"), 7, 9, more),
        Target(p128, "x C epoll", against(p128, rate), 0.90, 1.0, more),
        Target(p128, "x uvloop", against(p128, rate, "uvloop"), 1.05, 1.1, more),
        Target(p128, "x ThreadingTCPServer", against(p128, rate, "threading"), 3.5, 4, more),
        Target(p1000, "x C epoll", against(p1000, rate), 0.85, 0.95, more),
        Target(p1000, "p99 x uvloop's", against(p1000, "p99_us", "uvloop"), 1.5, 1.5, less),
        Target("bulk 1", "x C epoll", against("bulk 1", speed), 1.1, 1.3, more),
        Target("bulk 8", "x C epoll", against("bulk 8", speed), 0.90, 0.95, more),
        Target("churn, log on", "CPU x C epoll", against("churn", "cpu_us"), 4, 3, less),
        Target("churn, log off", "CPU x C epoll", quiet_churn(), 1.6, 1.3, less),
        Target("memory 1000", "KiB per idle client", plain("memory 1000", "kib"), 0.6, 0.4, less),
        Target("memory 10000", "KiB per idle client", plain("memory 10000", "kib"), 0.6, 0.4, less),
        Target("resident, idle", "MiB", plain("resident", "total"), 14, 11, less),
        Target(farewell, "last told x C epoll", against(farewell, "last_ms"), 1.6, 1.3, less),
        Target(farewell, "exit x C epoll", against(farewell, "exit_ms"), 1.4, 1.1, less),
        Target("first echo", "x the article's", against("start", "ms", "article"), 1.0, 0.7, less),
        Target("idle, 100 clients", "system calls", plain("idle", "calls"), 0, 0, less),
        *(target for clients in (16, 128, 1000) for target in handlers(clients)),
        Target("echo-threaded 16", "x ThreadingTCPServer", threaded(16), 1.0, 1.0, more),
        Target("echo-threaded 128", "x ThreadingTCPServer", threaded(128), 1.0, 2.0, more),
    ]


def _exchange(results: Results, labels: dict[str, str]) -> list[str]:
    pings, bulks = _sizes(results, "ping-pong"), _sizes(results, "bulk")
    if not pings:
        return []

    def latency(clients: int) -> _Column:
        keys = ("p50_us", "p99_us", "p999_us")

        def cell(name: str) -> str:
            found = [figure(results, f"ping-pong {clients}", name, key) for key in keys]
            return " / ".join(_brief(spread) for spread in found)

        return _Column(str(clients), cell)

    rates = [(f"ping-pong {n}", "per_second") for n in pings]
    rates += [(f"bulk {n}", "mib_per_second") for n in bulks]
    return [
        "## Ratios to C epoll",
        "Round trips of 64 bytes and bulk data by number of clients: more is better. "
        "Server's CPU time for a connection with one echo: less is better.",
        _by_server(
            labels,
            [_column(work, results, work, key, ratio) for work, key in rates]
            + [_column("churn, CPU", results, "churn", "cpu_us", ratio)],
        ),
        "## Round trips a second, MiB/s of bulk echoed",
        _by_server(labels, [_column(work, results, work, key, figure) for work, key in rates]),
        "## Round trip, p50 / p99 / p99.9 in µs, by number of clients",
        _by_server(labels, [latency(n) for n in pings]),
        "## Server's CPU time, µs",
        "For a round trip by number of clients, and for a connection with one echo.",
        _by_server(
            labels,
            [_column(str(n), results, f"ping-pong {n}", "cpu_us", figure) for n in pings]
            + [
                _column("connection", results, "churn", "cpu_us", figure),
                _column("connections a second", results, "churn", "per_second", figure),
            ],
        ),
    ]


HANDLERS = ("graced", "graced-stream", "graced-asyncio", "graced-uvloop", "graced-threaded")


def _handlers(results: Results, labels: dict[str, str]) -> list[str]:
    """The kinds of handlers, with an echo of each."""
    measured = {name: labels[name] for name in HANDLERS if name in labels}
    if len(measured) < 2:
        return []
    columns = [
        _column(f"{n} clients", results, f"ping-pong {n}", "per_second", ratio)
        for n in _sizes(results, "ping-pong")
    ]
    columns += [
        _column(f"KiB per client, {n:,} idle", results, f"memory {n}", "kib", figure)
        for n in _sizes(results, "memory")
    ]
    return [
        "## The kinds of handlers side by side",
        "Round trips of 64 bytes, C epoll = 1, and memory.",
        _by_server(measured, columns),
    ]


def _footprint(results: Results, labels: dict[str, str]) -> list[str]:
    works = [
        (f"memory {n}", "kib", f"KiB per client, {n:,} idle") for n in _sizes(results, "memory")
    ]
    works += [
        ("resident", "total", "resident, MiB"),
        ("start", "ms", "exec to first echo, ms"),
        ("idle", "calls", "idle: system calls"),
        ("idle", "switches", "context switches"),
    ]
    columns = [
        _column(head, results, work, key, figure) for work, key, head in works if work in results
    ]
    return ["## Footprint", _by_server(labels, columns)] if columns else []


def _starts(results: Results) -> list[str]:
    works = [work for work in results if work.startswith("systemctl start ")]
    if not works:
        return []
    rows = [
        [work.split()[-1]]
        + [_cell(figure(results, work, name, "ms")) for name in ("graced", "sleep")]
        for work in works
    ]
    return [
        "## `systemctl start` on a booted device, ms until it returns",
        "graced returns when clients are served; the other unit only executes sleep(1).",
        table(["", "graced", "sleep"], rows),
    ]


def _farewell(results: Results, labels: dict[str, str]) -> list[str]:
    sizes = _sizes(results, "farewell")
    if not sizes:
        return []
    columns = [
        _column(f"{n:,}: {head}", results, f"farewell {n}", key, figure)
        for n in sizes
        for head, key in (("last told", "last_ms"), ("exit", "exit_ms"))
    ]
    return [
        "## Farewell to idle clients, ms after SIGTERM",
        "They close as soon as they hear it. The servers that are missing tell nobody.",
        _by_server(labels, columns),
    ]


def _parts(results: Results) -> list[str]:
    samples = [s for s in results.get("resident", {}).get("graced", []) if s]
    if not samples:
        return []
    rows = sorted(samples[0]["values"].items(), key=lambda item: -item[1])
    return [
        "## Resident memory of the idle daemon, part by part",
        table(["", "MiB"], [[name, number(value)] for name, value in rows]),
    ]


def _samples(document: dict[str, Any]) -> list[Sample]:
    return [
        sample
        for servers in document["results"].values()
        for of_server in servers.values()
        for sample in of_server
        if sample
    ]


def not_judged(document: dict[str, Any]) -> str:
    """Why the figures are not compared with the targets; empty: they are."""
    samples = _samples(document)
    disturbed = sum(map(_disturbed, samples))
    if samples and disturbed > BUSY * len(samples):
        return (
            f"the machine was busy: {disturbed} of {len(samples)} measurements were disturbed by"
            " other processes"
        )
    if document["sizes"]["rounds"] < ENOUGH:
        return "quick figures: too few rounds"
    return ""


def _notes(document: dict[str, Any]) -> list[str]:
    samples = _samples(document)
    disturbed = sum(map(_disturbed, samples))
    place, sizes = document["processors"], document["sizes"]
    where = (
        "wherever the kernel put them"
        if place["servers"] == "any"
        else f"servers on processor {place['servers']}, load on {place['load']}"
    )
    notes = [
        f"Medians of up to {sizes['rounds']} rounds (first echo: {sizes['starts']}), in brackets "
        "the extremes; ratios within a round.",
        f"Ran {where}; {document['minutes']} minutes.",
        "graced: the shipped configuration, connection log on; for more than 4,096 clients "
        "`limits.max_clients` was raised, nothing else. All logs go to /dev/null.",
        f"A measurement during which others used more than {OTHERS:.0%} of a processor, also when "
        f"it was repeated, is disturbed ({disturbed} of {len(samples)}). It does not count where "
        f"{ENOUGH} rounds were quiet; `*` marks what had fewer.",
    ]
    notes += [f"Left out: {why}" for why in document["left_out"]]
    return ["## Notes", "\n".join(f"- {note}" for note in notes)]


def text(document: dict[str, Any]) -> str:
    """The whole report."""
    results, labels, machine = document["results"], document["labels"], document["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in document["versions"].items())
    reason = not_judged(document)
    aims = [target.row(judged=not reason) for target in targets(results)]
    parts = [
        "# graced beside its peers",
        f"{machine['processors']} x {machine['processor']}, {machine['memory_gib']} GiB, "
        f"{machine['system']}, Linux {machine['kernel']}; {versions}. `{document['command']}`",
        *_exchange(results, labels),
        *_handlers(results, labels),
        *_footprint(results, labels),
        *_starts(results),
        *_farewell(results, labels),
        *_parts(results),
        *_notes(document),
        "## Targets",
        *([f"Not judged: {reason}."] if reason else []),
        table(["work", "", "measured", "target", "stretch", ""], aims),
    ]
    return "\n\n".join(parts) + "\n"
