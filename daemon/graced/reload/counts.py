"""The counts of the old process, as a letter has them.

COMMIT and MOVED have all of them.  The new process adds what is new in each, so a count neither
goes back in between nor is counted twice.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from graced.reload.channel import Letter

_SERVER = ("admitted", "echoed", "probes", "refused")


class Counts:
    """Counts of one process, or the difference of two."""

    __slots__ = ("server", "tallies")

    def __init__(
        self,
        server: tuple[int, int, int, int] = (0, 0, 0, 0),
        tallies: Mapping[str, int] | None = None,
    ) -> None:
        self.server = server
        """See `graced.server.Server.counts`."""
        self.tallies = tallies or {}
        """See `graced.process.tallies`."""

    def __sub__(self, before: Counts) -> Counts:
        admitted, echoed, probes, refused = map(int.__sub__, self.server, before.server)
        tallies = {name: n - before.tallies.get(name, 0) for name, n in self.tallies.items()}
        return Counts((admitted, echoed, probes, refused), tallies)

    def encode(self) -> bytes:
        """The data of a letter: a line for each count."""
        counts = {**dict(zip(_SERVER, self.server, strict=True)), **self.tallies}
        return "".join(f"{count} {name}\n" for name, count in counts.items()).encode()


def of(letter: Letter) -> Counts:
    """The counts in a letter; without any all are 0."""
    lines = letter.data.decode("utf-8", "replace").splitlines()
    found = {name: count for count, _, name in (line.partition(" ") for line in lines)}
    counts = {name: int(count) for name, count in found.items() if count.isdecimal()}
    admitted, echoed, probes, refused = (counts.pop(name, 0) for name in _SERVER)
    return Counts((admitted, echoed, probes, refused), counts)
