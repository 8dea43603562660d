"""A running service looked at again and again: its state, its clients, and the rates of both."""

from __future__ import annotations

import argparse
import time
from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple

from graced.ctl import control

INTERVAL = 1.0
"""Seconds between two looks."""
REMEMBERED = 60
"""Looks whose rates are remembered."""
RATES = ("new", "refused", "sent")
"""What the service counts: new and refused clients, bytes sent."""


class Look(NamedTuple):
    """What was seen at the monotonic time `at`."""

    at: float
    status: dict[str, Any]
    clients: list[dict[str, Any]]


class Feed:
    """Looks at a service, on one connection as long as it lasts.  A context manager."""

    def __init__(self, arguments: argparse.Namespace, **filters: Any) -> None:
        """`filters`: which clients are asked for."""
        self._arguments = arguments
        self._filters = filters
        self._connection: control.Connection | None = None

    def __enter__(self) -> Feed:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._close()

    def _close(self) -> None:
        if self._connection:
            self._connection.__exit__()
            self._connection = None

    def look(self) -> Look:
        """Look now.  Raises `ControlError`; the next look tries again."""
        (status,) = self.ask("Status")
        return Look(time.monotonic(), status, self.clients())

    def clients(self) -> list[dict[str, Any]]:
        """The clients now.  Raises `ControlError`."""
        replies = self.ask("ListClients", **self._filters)
        return [row for reply in replies for row in reply["clients"]]

    def ask(self, method: str, **parameters: Any) -> Iterator[dict[str, Any]]:
        """Call a method, see `Connection.ask`."""
        try:
            if not self._connection:
                self._connection = control.Connection(self._arguments)
            yield from self._connection.ask(method, **parameters)
        except control.ControlError:
            self._close()
            raise


class Rates:
    """What happens in a second, of the service and of each of its clients."""

    def __init__(self) -> None:
        self.history = {name: deque[float](maxlen=REMEMBERED) for name in RATES}
        """The rates by name, the last one at the end."""
        self._last: Look | None = None

    def add(self, look: Look) -> None:
        """Add a look; its clients get ``receivedRate`` and ``sentRate``, None if unknown."""
        last, self._last = self._last, look
        if last and look.status["pid"] != last.status["pid"]:
            # Counts of another process; after a crash they begin anew.
            last = None
        seconds = look.at - last.at if last else 0.0
        if last and seconds:
            then, now = _counts(last.status), _counts(look.status)
            for name in RATES:
                self.history[name].append((now[name] - then[name]) / seconds)
        known = {row["client"]: row for row in last.clients} if last else {}
        for row in look.clients:
            before = known.get(row["client"])
            if before and before["age"] > row["age"]:
                # Another client, from the same port.
                before = None
            for key in ("received", "sent"):
                rate = None
                if before and seconds and row[key] is not None and before[key] is not None:
                    rate = (row[key] - before[key]) / seconds
                row[f"{key}Rate"] = rate

    def last(self, name: str) -> float | None:
        """The rate at the last look; None: unknown."""
        rates = self.history[name]
        return rates[-1] if rates else None


def _counts(status: dict[str, Any]) -> dict[str, int]:
    refused = sum(each["clients"] for each in status["refused"])
    return {"new": status["admitted"], "refused": refused, "sent": status["sent"]}
