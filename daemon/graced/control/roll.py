"""The roll: the clients of a server as an operator sees them, a few at a time.

The I/O threads own their clients, so each is asked for a few, and copies no more than the slots of
these.  The rest, questions to the kernel and text, is done in the thread that asks.  So a client
of the service waits for the roll no longer than for one read of another client.
"""

from __future__ import annotations

from functools import partial
from queue import Empty, SimpleQueue
from time import monotonic

from graced.control.varlink import VarlinkError
from graced.loop import phase, telling
from graced.loop.client import Client
from graced.sockets.tcp_info import tcp_info

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from graced.loop.clients import Clients
    from graced.loop.interfaces import Present
    from graced.loop.io_thread import IOThread
    from graced.server import Server

    Row = dict[str, Any]
    """A ``Client`` of io.graced.Control."""
    Passes = Callable[[Row], bool]
    """A filter."""
    Copied = tuple[Client, int, float, int, int]
    """A client with its phase, `last`, `echoed` and number of unsent bytes."""

BATCH = 32
"""Clients that are looked at together."""
SCANNED = 512
"""Descriptors that an I/O thread looks at together: not each is a client."""
ANSWER_TIMEOUT = 1.0
"""Seconds in which an I/O thread has to answer."""
IN_HANDLER = "in_handler"
"""In place of a phase, for a client that the thread of a handler or an event loop owns."""
_NAMES = (
    "ACTIVE",
    "AWAITING_FIRST_BYTE",
    "TRACED",
    "WRITE_BLOCKED",
    "FAREWELL_PENDING",
    "FAREWELL_SENT",
    "READ_PAUSED",
    "LINGERING",
    "AWAITING_THREAD",
    "STREAMING",
    "DEPARTING",
    "SECURING",
)
PHASES = {getattr(phase, name): name.lower() for name in _NAMES}
"""The names of the phases of a client."""


def rows(server: Server, passes: Passes) -> Iterator[list[Row]]:
    """Yield the clients that pass, in lists of `BATCH` at most; a list may be empty.

    For one thread, which must not be an I/O thread.  Raises `VarlinkError` where an I/O thread does
    not answer.  A client that comes or goes meanwhile may be missing; none is there twice.
    """
    for _, part in _parts(server):
        yield [row for row, _ in part if passes(row)]


def close(server: Server, passes: Passes, reason: str) -> int:
    """Close the clients that pass, and return their number.  Threads and errors: see `rows`.

    `reason`: for the log.  The connection of a client that a handler has is ended, and the handler
    finishes in its own time.
    """
    closed = 0
    for thread, part in _parts(server):
        chosen = [each for row, each in part if passes(row)]
        if thread and chosen:
            closed += ask(thread, partial(_close, thread.clients, chosen, reason))
        elif chosen:
            for session in chosen:
                session.cut(reason)
            closed += len(chosen)
    return closed


def tell(server: Server, passes: Passes, deadline: float) -> int:
    """Tell the clients that pass and are not told yet, and return their number.

    Each is told when it is at rest, and closed at the monotonic time `deadline` if it is there yet.
    Threads and errors: see `rows`.
    """
    told = 0
    for thread, part in _parts(server):
        chosen = [each if thread else each.client for row, each in part if passes(row)]
        if chosen:
            # Which thread looks at the clients of handlers does not matter.
            teller = thread or server.io_threads[0]
            clients, goodbye = teller.clients, teller.goodbye
            told += ask(teller, partial(telling.tell, clients, goodbye, chosen, deadline))
    return told


def _parts(server: Server) -> Iterator[tuple[IOThread | None, list[tuple[Row, Any]]]]:
    """Yield some clients at a time: their I/O thread, and of each its row and itself.

    No I/O thread: instead of the clients their sessions.
    """
    moving: set[Client] = set()
    for thread in server.io_threads:
        for part in _clients_of(thread):
            if server.pool:
                # A handler may have it by the time that the handlers are looked at.
                moving.update(each[0] for each in part)
            yield thread, [(_row(*each), each[0]) for each in part]
    if server.pool:
        sessions = [each for each in server.pool.present() if each.client not in moving]
        for first in range(0, len(sessions), BATCH):
            some = sessions[first : first + BATCH]
            yield None, [(_row_of_session(each), each) for each in some]


def _clients_of(thread: IOThread) -> Iterator[list[Copied]]:
    first: int | None = 0
    while first is not None and thread.is_alive():
        part, first = ask(thread, partial(_copy, thread.clients, first))
        yield part


def ask(thread: IOThread, question: Callable[[], Any]) -> Any:
    """Call `question`, which must not fail, in an I/O thread, and return the result.

    Raises `VarlinkError` where the thread does not answer; it may call `question` yet.
    """
    answers: SimpleQueue[Any] = SimpleQueue()
    thread.post(lambda: answers.put(question()))
    try:
        return answers.get(timeout=ANSWER_TIMEOUT)
    except Empty:
        raise VarlinkError("io.graced.Control.NotAnswering", thread=thread.name) from None


def _copy(clients: Clients, first: int) -> tuple[list[Copied], int | None]:
    """Clients from the descriptor `first` on, and the descriptor to go on with; None: no other."""
    sources = clients.poller.sources
    found: list[Copied] = []
    for fd in range(first, min(first + SCANNED, len(sources))):
        source = sources[fd]
        if isinstance(source, Client) and source.phase < phase.CLIENT_PHASES:
            copied = (source, source.phase, source.last, source.echoed, len(source.unsent))
            found.append(copied)
            if len(found) == BATCH:
                return found, fd + 1
    following = first + SCANNED
    return found, following if following < len(sources) else None


def _close(clients: Clients, chosen: list[Client], reason: str) -> int:
    """Close those that are still there, in their I/O thread; return their number."""
    sources = clients.poller.sources
    closed = 0
    for client in chosen:
        fd = client.sock.fileno()
        if 0 <= fd < len(sources) and sources[fd] is client:
            clients.close(client, reason)
            closed += 1
    return closed


def _row(client: Client, number: int, last: float, echoed: int, unsent: int) -> Row:
    info = tcp_info(client.sock)
    age, idle = _times(client, monotonic() - last)
    return {
        "client": str(client),
        "kind": kind_of(client),
        "phase": PHASES[number],
        "age": age,
        "idle": idle,
        "received": info.received if info else None,
        "sent": info.written if info else echoed,
        "unsent": unsent,
        "told": client.told != phase.NOT_TOLD,
    }


def _times(client: Client, silence: float) -> tuple[float, float]:
    """Seconds since the accept and of silence; the kernel counts the latter in larger steps."""
    age = monotonic() - client.since
    return round(age, 3), round(min(max(0.0, silence), age), 3)


def _row_of_session(session: Present) -> Row:
    client = session.client
    info = tcp_info(client.sock)
    age, idle = _times(client, info.silence if info else session.silence)
    return {
        "client": str(client),
        "kind": kind_of(client),
        "phase": IN_HANDLER,
        "age": age,
        "idle": idle,
        "received": info.received if info else None,
        "sent": info.written if info else client.echoed + session.written,
        "unsent": None,
        "told": session.is_told,
    }


def kind_of(client: Client) -> str:
    """The kind of a client's address."""
    if client.host.startswith("unix:"):
        return "unix"
    return "ipv6" if ":" in client.host else "ipv4"
