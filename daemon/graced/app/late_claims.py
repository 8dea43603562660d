"""Late claims: addresses and pidfile that a start could not get, and addresses that move.

A device may start before its network, without its name server, or while another program has the
address or the pidfile.  The service serves the other addresses meanwhile.  A thread of its own
tries again, and may take as long as a resolver likes; the pace begins with a second and doubles up
to `LONGEST_PAUSE`.

A name may get another address while the service runs, an interface another number, and somebody may
remove the path of a Unix socket.  The claim to such an address lasts: the same thread looks again,
at the longest pause, for as long as the service runs.
"""

from __future__ import annotations

from queue import SimpleQueue
from threading import Event, Thread
from time import monotonic

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
_REMOVED = "somebody has removed the path"


class Claim:
    """Listeners or a pidfile that the start could not get, or listeners that may move."""

    def __init__(
        self,
        address: Address | None = None,
        error: GracedError | None = None,
        attempt: Callable[[], Got] | None = None,
        *,
        asked: bool = True,
        lasts: bool = False,
        missing: bool = True,
    ) -> None:
        """`error`: the reason; without it `address` is a host name that is not resolved yet.

        `attempt` tries again and raises `GracedError`; None: another try makes no difference.
        `asked`: whether the start has tried; inherited listeners are used without a question.
        `lasts`: whether to try again after a success.  `missing`: whether the start lacks it.
        """
        self.address = address
        self.error = error
        self.attempt = attempt
        self.asked = asked
        self.lasts = lasts
        self.missing = missing


class LateClaims:
    """The claims that are missing or may move.  For the main thread."""

    def __init__(self) -> None:
        self._claims: list[Claim] = []
        self._said: set[str] = set()
        self._got: SimpleQueue[tuple[Claim, GracedError | None, Got]] = SimpleQueue()
        self._begun = Event()
        self._ended = Event()
        self._thread = Thread(target=self._run, name="late claims", daemon=True)

    def add(self, claim: Claim) -> None:
        """Add a claim, before the start."""
        self._claims.append(claim)

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
        for claim in self._missing():
            if claim.asked and not claim.error:
                events.ADDRESS_UNRESOLVED(address=claim.address)
        self._begun.set()

    def _missing(self) -> list[Claim]:
        return [claim for claim in self._claims if claim.missing]

    @property
    def missing(self) -> str:
        """What is still missing, for the status line; empty: nothing."""
        missing = self._missing()
        names = ", ".join(str(each.address) for each in missing if not each.error)
        errors = [
            f"{each.error}, trying again" if each.attempt else str(each.error)
            for each in missing
            if each.error
        ]
        return "; ".join([f"waiting for {names}"] * bool(names) + errors)

    def look(self) -> list[Got]:
        """Say the reasons that have not been said; return what was got since the last call."""
        for claim in self._missing():
            if claim.error and str(claim.error) not in self._said:
                self._said.add(str(claim.error))
                events.CLAIM_REFUSED(reason=claim.error, outlook=_AGAIN if claim.attempt else _REST)
        found: list[Got] = []
        while not self._got.empty():
            claim, error, got = self._got.get()
            if error:
                self._said.discard(str(error))
            if isinstance(got, PidFile):
                events.CLAIM_GRANTED(claim=f"pidfile {got.path} is written", reason=error)
            elif got:
                names = ", ".join(each.name for each in got)
                if error:
                    events.CLAIM_GRANTED(claim=f"serving on {names}", reason=error)
                elif claim.address and claim.address.path:
                    events.CLAIM_GRANTED(claim=f"serving on {names}", reason=_REMOVED)
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
            _give_up(self._got.get()[2])

    def _run(self) -> None:
        self._begun.wait()
        pause = FIRST_PAUSE
        look_again = monotonic() + LONGEST_PAUSE
        while True:
            looks = monotonic() >= look_again
            if looks:
                look_again = monotonic() + LONGEST_PAUSE
            for claim in self._claims if looks else self._missing():
                if claim.attempt and not self._ended.is_set():
                    self._try(claim, claim.attempt)
            if not any(claim.attempt for claim in self._missing()):
                if not any(claim.lasts for claim in self._claims):
                    return
                pause = LONGEST_PAUSE
            if self._ended.wait(min(pause, max(0.0, look_again - monotonic()))):
                return
            pause = min(2 * pause, LONGEST_PAUSE)

    def _try(self, claim: Claim, attempt: Callable[[], Got]) -> None:
        try:
            got = attempt()
        except UnresolvedError:
            # A name that was known once is served where it was.
            if claim.missing and not claim.asked:
                claim.asked = True
                events.ADDRESS_UNRESOLVED(address=claim.address)
            return
        except GracedError as error:
            if str(error) != str(claim.error) or not claim.missing:
                claim.error, claim.missing = error, True
                self._wake()
            return
        if self._ended.is_set():
            _give_up(got)
            return
        before, claim.error, claim.missing = claim.error, None, False
        if not claim.lasts:
            self._claims = [each for each in self._claims if each is not claim]
        self._got.put((claim, before, got))
        self._wake()


def _give_up(got: Got) -> None:
    if isinstance(got, PidFile):
        got.remove()
        return
    for listener in got:
        listener.close()
