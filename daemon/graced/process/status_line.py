"""The status line of a service that serves, in ``systemctl status`` and in the log."""

from __future__ import annotations

from graced.log.event import plural
from graced.process.lifecycle import State

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from graced.server import Server

LISTED_ADDRESSES = 3
"""Addresses, at most."""


def serving(server: Server, state: State, note: str, missing: str) -> str:
    """The line; `note`: how the process has begun; `missing`: what the service waits for."""
    number = server.waiting
    waiting = f", {plural(number, 'client')} waiting for a thread" if number else ""
    probes = f" ({server.probes} without a byte)" if server.probes else ""
    refused = f", {number} refused" if (number := server.admission.refused) else ""
    return (
        f"{'reloading' if state is State.RELOADING else 'serving'}:"
        f" {plural(server.clients, 'client')} now, {server.admitted} so far{probes}{refused},"
        f" {plural(server.echoed, 'byte')} echoed on {_listed(server.addresses)}"
        f"{waiting}{note}{f'; {missing}' if missing else ''}"
    )


def _listed(addresses: Sequence[str]) -> str:
    more = len(addresses) - LISTED_ADDRESSES
    listed = ", ".join(addresses[:LISTED_ADDRESSES]) or "no address yet"
    return f"{listed} and {more} more" if more > 0 else listed
