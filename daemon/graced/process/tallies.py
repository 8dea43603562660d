"""Tallies: counts of a service by name, which the next process of the service goes on with.

`graced.server.Server.counts` are the counts of the server itself, which each release knows.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from graced.log.writer import Log
    from graced.loop.admission import Admission

HANDOVER_BOUNDS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Seconds: the upper bounds of the classes of handovers, by the time without service.

The last class has none."""
_REFUSED = "refused "
_HANDOVERS = "handovers "
_HANDOVER_TIME = "handover milliseconds"
_DROPPED, _SUPPRESSED = "log dropped", "log suppressed"


class Tallies:
    """The counts of this process and of those before.  Main thread only; any thread may read."""

    def __init__(self, log: Log) -> None:
        """`log`: its losses are counted."""
        self._log = log
        self._admission: Admission | None = None
        self.handovers = [0] * (len(HANDOVER_BOUNDS) + 1)
        """The number of handovers in each class, see `HANDOVER_BOUNDS`."""
        self.handover_seconds = 0.0
        """The time without service in all of them."""

    def go_on(self, tallies: Mapping[str, int], admission: Admission) -> None:
        """Add `tallies` of the last process: all of them, or those since the last call."""
        self._admission = admission
        for name, count in tallies.items():
            if name.startswith(_REFUSED):
                admission.add_refused(name.removeprefix(_REFUSED), count)
        dropped, suppressed = self._log.losses_before
        dropped += tallies.get(_DROPPED, 0)
        self._log.losses_before = dropped, suppressed + tallies.get(_SUPPRESSED, 0)
        for number in range(len(self.handovers)):
            self.handovers[number] += tallies.get(f"{_HANDOVERS}{number}", 0)
        self.handover_seconds += tallies.get(_HANDOVER_TIME, 0) / 1000

    def count_handover(self, milliseconds: int | None) -> None:
        """Count a handover, in which no client was served for so long; None: there was none."""
        if milliseconds is None:
            return
        seconds = milliseconds / 1000
        self.handovers[sum(bound < seconds for bound in HANDOVER_BOUNDS)] += 1
        self.handover_seconds += seconds

    def now(self) -> dict[str, int]:
        """All counts that are not 0, for the next process."""
        found = {f"{_HANDOVERS}{number}": count for number, count in enumerate(self.handovers)}
        found[_HANDOVER_TIME] = round(1000 * self.handover_seconds)
        found[_DROPPED], found[_SUPPRESSED] = self._log.losses
        if self._admission:
            found |= {f"{_REFUSED}{name}": n for name, n in self._admission.refused_by.items()}
        return {name: count for name, count in found.items() if count}
