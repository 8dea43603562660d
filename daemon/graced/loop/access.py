"""The access of strangers: which hosts may connect, and what a host hears that may not."""

from __future__ import annotations

from graced.sockets.networks import NetworkTable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from graced.sockets.networks import Network


class Access:
    """The rules for hosts, of which the most specific decides.  Any thread may call.

    A host that is in no network of the rules may connect unless there are networks that may: then
    nobody else may.  Clients of a Unix socket have no address, and no rule holds for them: the
    permissions of its path say who may connect.
    """

    __slots__ = ("_others", "_table", "tells")

    def __init__(self, allow: Sequence[Network], deny: Sequence[Network], *, tells: bool) -> None:
        """`tells`: a refused client is told the farewell, if one is declared; else it is reset."""
        self.tells = tells
        self._others = "access.allow has no network of the client" if allow else ""
        self._table = NetworkTable(
            [(network, "") for network in allow]
            + [(network, f"access.deny has {network}") for network in deny]
        )

    def denial(self, host: str) -> str:
        """The reason why a host may not connect; empty: it may."""
        if host.startswith("unix:"):
            return ""
        reason = self._table.find(host)
        return self._others if reason is None else reason
