"""Late claims: addresses and pidfile that a start could not get, tried again and again.

A device may start before its network, without its name server, or while another program has the
address or the pidfile.  The service serves the other addresses meanwhile.  A thread of its own
tries again, and may take as long as a resolver likes; the pace begins with a second and doubles up
to `LONGEST_PAUSE`.
"""

from __future__ import annotations

from queue import SimpleQueue
from threading import Event, Thread

from graced.errors import GracedError, UnresolvedError
from graced.log import events
from graced.process.pidfile import PidFile
from graced.threads import start_thread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from graced.sockets.address import Address
    from graced.sockets.listener import Listener

    Got = list[Listener] | PidFile

FIRST_PAUSE = 1.0
"""Seconds between the first two tries."""
LONGEST_PAUSE = 60.0
"""Seconds between two tries in the end."""
_AGAIN = "trying again while the service runs, once a minute in the end"
_REST = "the service serves the rest"


class Claim:
    """Listeners or a pidfile that the start could not get."""

    def __init__(
        self,
        address: Address | None = None,
        error: GracedError | None = None,
        attempt: Callable[[], Got] | None = None,
        *,
        asked: bool = True,
    ) -> None:
        """`error`: the reason; without it `address` is a host name that is not resolved yet.

        `attempt` tries again and raises `GracedError`; None: another try makes no difference.
        `asked`: whether the start has tried; inherited listeners are used without a question.
        """
        self.address = address
        self.error = error
        self.attempt = attempt
        self.asked = asked


class LateClaims:
    """The claims that are missing.  For the main thread."""

    def __init__(self) -> None:
        self._missing: list[Claim] = []
        self._said: set[str] = set()
        self._got: SimpleQueue[tuple[Claim, Got]] = SimpleQueue()
        self._begun = Event()
        self._ended = Event()
        self._thread = Thread(target=self._run, name="late claims", daemon=True)

    def add(self, claim: Claim) -> None:
        """Add a claim, before the start."""
        self._missing.append(claim)

    def prepare(self) -> None:
        """Start the thread, which waits for `start`.  Raises `StartError`.

        To be called before clients are taken over: later the failure would end them.
        """
        start_thread(self._thread)

    def start(self, wake: Callable[[], None]) -> None:
        """Begin to try again.

        `wake` is called, in another thread, when `look` has something to do.
        """
        self._wake = wake
        for claim in self._missing:
            if claim.asked and not claim.error:
                events.ADDRESS_UNRESOLVED(address=claim.address)
        self._begun.set()

    @property
    def missing(self) -> str:
        """What is still missing, for the status line; empty: nothing."""
        missing = list(self._missing)
        names = ", ".join(str(each.address) for each in missing if not each.error)
        errors = [
            f"{each.error}, trying again" if each.attempt else str(each.error)
            for each in missing
            if each.error
        ]
        return "; ".join([f"waiting for {names}"] * bool(names) + errors)

    def look(self) -> list[Got]:
        """Say the reasons that have not been said; return what was got since the last call."""
        for claim in list(self._missing):
            if claim.error and str(claim.error) not in self._said:
                self._said.add(str(claim.error))
                events.CLAIM_REFUSED(reason=claim.error, outlook=_AGAIN if claim.attempt else _REST)
        found: list[Got] = []
        while not self._got.empty():
            claim, got = self._got.get()
            if isinstance(got, PidFile):
                events.CLAIM_GRANTED(claim=f"pidfile {got.path} is written", reason=claim.error)
            elif got:
                names = ", ".join(each.name for each in got)
                if claim.error:
                    events.CLAIM_GRANTED(claim=f"serving on {names}", reason=claim.error)
                else:
                    events.ADDRESS_FOUND(address=claim.address, addresses=names)
            found.append(got)
        return found

    def stop(self) -> None:
        """Try no more, and give up what `look` has not returned.

        Does not wait for the resolver: the thread closes what it binds afterwards.
        """
        self._ended.set()
        self._begun.set()
        while not self._got.empty():
            _give_up(self._got.get()[1])

    def _run(self) -> None:
        self._begun.wait()
        pause = FIRST_PAUSE
        while not self._ended.is_set() and any(claim.attempt for claim in self._missing):
            for claim in list(self._missing):
                try:
                    got = claim.attempt() if claim.attempt else None
                except UnresolvedError:
                    if not claim.asked:
                        claim.asked = True
                        events.ADDRESS_UNRESOLVED(address=claim.address)
                    continue
                except GracedError as error:
                    if str(error) != str(claim.error):
                        claim.error = error
                        self._wake()
                    continue
                if got is None:
                    continue
                if self._ended.is_set():
                    _give_up(got)
                    return
                self._missing.remove(claim)
                self._got.put((claim, got))
                self._wake()
            if self._ended.wait(pause):
                return
            pause = min(2 * pause, LONGEST_PAUSE)


def _give_up(got: Got) -> None:
    if isinstance(got, PidFile):
        got.remove()
        return
    for listener in got:
        listener.close()
