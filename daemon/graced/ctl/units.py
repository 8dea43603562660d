"""Durations and numbers of bytes, as people read them."""

from __future__ import annotations

_UNITS = ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s"))
_PREFIXES = "kMGTPE"
_THOUSAND = 1000


def duration(seconds: float) -> str:
    """A duration, with its two largest units: "3 d 4 h", "1 min 5 s", "12 s"."""
    whole = int(seconds)
    for size, name, part_size, part_name in _UNITS:
        if whole >= size:
            return f"{whole // size} {name} {whole % size // part_size} {part_name}"
    return f"{whole} s"


def size(number: int | None) -> str:
    """A number of bytes: "999", "1.5k", "20M"; "-": unknown."""
    if number is None:
        return "-"
    value, prefix = float(number), ""
    for prefix_of_more in _PREFIXES:
        # As it would be rounded.
        if value < _THOUSAND - 0.5:
            break
        value, prefix = value / _THOUSAND, prefix_of_more
    return f"{value:.1f}{prefix}" if prefix and value < 9.95 else f"{value:.0f}{prefix}"
