"""Draws results.json: plot.py RESULTS PICTURE, run with a Python that has matplotlib."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl  # type: ignore[import-not-found, unused-ignore]

mpl.use("Agg")
import matplotlib.pyplot as plt  # type: ignore[import-not-found, unused-ignore]
from report import Results, figure, ratio

COLOURS = {
    "c-epoll": "#444444",
    "graced": "#d62728",
    "graced-quiet": "#ff9896",
    "graced-stream": "#ff7f0e",
    "graced-asyncio": "#9edae5",
    "graced-uvloop": "#aec7e8",
    "graced-threaded": "#e377c2",
    "uvloop": "#1f77b4",
    "asyncio": "#17becf",
    "c-threads": "#7f7f7f",
    "threading": "#2ca02c",
    "article": "#bcbd22",
    "inetd": "#9467bd",
    "socat": "#8c564b",
}


def _growth(
    axes: Any, document: dict[str, Any], work: str, key: str, relative: bool = False
) -> None:
    results: Results = document["results"]
    sizes = sorted(int(name.split()[1]) for name in results if name.startswith(f"{work} "))
    for name, label in document["labels"].items():
        points = []
        for size in sizes:
            arguments = (results, f"{work} {size}", name, key)
            if spread := ratio(*arguments) if relative else figure(*arguments):
                points.append((size, *spread[:3]))
        if points:
            x, middle, low, high = zip(*points, strict=True)
            axes.plot(x, middle, marker="o", markersize=4, color=COLOURS.get(name), label=label)
            axes.fill_between(x, low, high, color=COLOURS.get(name), alpha=0.12, linewidth=0)
    axes.set_xscale("log")
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.minorticks_off()
    axes.set_xlabel("clients")


def _bars(axes: Any, document: dict[str, Any], work: str, key: str, unit: str) -> None:
    bars = [
        (label, spread, COLOURS.get(name))
        for name, label in document["labels"].items()
        if (spread := figure(document["results"], work, name, key))
    ]
    for row, (_label, spread, colour) in enumerate(reversed(bars)):
        value = max(spread.median, 0.0)
        axes.barh(row, value, color=colour)
        axes.annotate(
            f" {spread.median:.3g}", (value, row), va="center", fontsize=8, annotation_clip=False
        )
    axes.set_yticks(range(len(bars)), [label for label, *_ in reversed(bars)], fontsize=8)
    axes.set_xlabel(unit)
    axes.margins(x=0.18)


def main() -> None:
    """Six pictures in one."""
    document = json.loads(Path(sys.argv[1]).read_text())
    figure_, grid = plt.subplots(2, 3, figsize=(16, 9), layout="constrained")
    (speed, tail, told), (memory, churn, start) = grid
    _growth(speed, document, "ping-pong", "per_second", relative=True)
    speed.set_title("Round trips of 64 bytes, x C epoll")
    speed.set_ylim(bottom=0)
    _growth(tail, document, "ping-pong", "p99_us")
    tail.set_title("Round trip, 99th percentile, µs")
    tail.set_yscale("log")
    _growth(told, document, "farewell", "last_ms")
    told.set_title("SIGTERM until the last idle client knows, ms")
    told.set_yscale("log")
    told.yaxis.set_major_formatter("{x:g}")
    told.yaxis.set_minor_formatter("{x:g}")
    sizes = sorted(int(n.split()[1]) for n in document["results"] if n.startswith("memory "))
    if sizes:
        _bars(memory, document, f"memory {sizes[0]}", "kib", "KiB")
        memory.set_title(f"Memory per idle client, {sizes[0]:,} clients")
        memory.set_xscale("symlog", linthresh=0.1)
    _bars(churn, document, "churn", "cpu_us", "µs of the server's CPU")
    churn.set_title("A connection with one echo")
    churn.set_xscale("log")
    _bars(start, document, "start", "ms", "ms")
    start.set_title("exec to first echo")
    handles, labels = speed.get_legend_handles_labels()
    figure_.legend(handles, labels, loc="outside lower center", ncols=6, fontsize=9)
    machine = document["machine"]
    figure_.suptitle(
        f"graced beside its peers: {machine['processors']} x {machine['processor']}, "
        f"{machine['system']}, Python {document['versions'].get('Python', '')}",
        fontsize=11,
    )
    figure_.savefig(sys.argv[2], dpi=110)


main()
