"""The proxies: the hosts whose connections begin with a header that says who the client is."""

from __future__ import annotations

from graced.sockets.networks import NetworkTable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from graced.sockets.networks import Network


class Proxies:
    """The hosts whose connections begin with a header.  Any thread may call."""

    __slots__ = ("_table", "_unix")

    def __init__(self, sources: Sequence[Network | str]) -> None:
        """`sources`: networks; the word ``unix`` stands for the clients of all Unix sockets."""
        self._unix = "unix" in sources
        self._table = NetworkTable([(each, "") for each in sources if not isinstance(each, str)])

    def has(self, host: str) -> bool:
        """Whether the connections of a host begin with a header."""
        return self._unix if host.startswith("unix:") else self._table.find(host) is not None
