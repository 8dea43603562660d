"""The states of the new process in a reload.

Its life::

    PREPARING       imports, configures
    CONFIGURED      has said HELLO, and waits for the offer
    OFFERED         has the listeners; binds what is new, and tries to restore a state
    READY           has everything; waits for the commit, and serves nobody
    MOVING          accepts and serves clients, and may get a batch from the old process
    HOLDING         has a batch, and touches no client of it until the old process has released it
    DRAINING_REST   serves everybody but the clients that the old process drains
    ALONE           the old process is gone: a daemon like any other
    STOPPING        the service stops; all clients that are here are drained
    ENDED           nothing is left to do here
    ASKING          the old process has died before it could say COMMIT: is this the main process?

    PREPARING ─▶ CONFIGURED ─▶ OFFERED ─▶ READY ─▶ MOVING ─▶ DRAINING_REST ─▶ ALONE
                                                    │  ▲
                                                    ▼  │
                                                   HOLDING

**Before the commit** the new process owns nothing and ends when anything goes wrong; systemd ends
it too, if the old process dies, unless it has just become the main process: then it serves.
**After the commit** it is the main process.  If the old process
dies then, the batch in hand is served here: nobody else can.

**The old process dies** is an event that comes last, as in `graced.reload.old_side`.

The pidfile names the old process until its clients have moved, or it is dead.  So systemd makes the
old process the main process again if this one dies, and does not kill the clients that are still
there.
"""

from __future__ import annotations

from enum import Enum

from graced.reload.table import Message

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.reload.table import Table


class State(Enum):
    """A state of the new process, see the head of this module."""

    PREPARING = "preparing"
    CONFIGURED = "configured"
    OFFERED = "offered"
    READY = "ready"
    MOVING = "moving"
    HOLDING = "holding"
    DRAINING_REST = "draining the rest"
    ALONE = "alone"
    STOPPING = "stopping"
    ENDED = "ended"
    ASKING = "asking"


class Event(Enum):
    """What happens to the new process; a message of the old one by the name of the message."""

    CONFIGURED = "imported and configured"
    OFFER = "offer"
    COMPLETE = "everything is there that serving takes"
    REFUSED = "something is missing, or fails"
    COMMIT = "commit"
    BATCH = "batch"
    RELEASED = "released"
    REVOKED = "revoked"
    MOVED = "moved"
    OLD_DIED = "the old process is dead, and its messages are read"
    IS_MAIN = "systemd takes this for the main process"
    IS_NOT_MAIN = "systemd does not"
    OVERDUE = "the old process has not kept the time that it has named itself"
    STOP = "a signal to stop, or the message"
    DRAINED = "the last client is gone, or closed at the deadline"


HEARD: dict[Message, Event] = {
    Message.OFFER: Event.OFFER,
    Message.COMMIT: Event.COMMIT,
    Message.BATCH: Event.BATCH,
    Message.RELEASED: Event.RELEASED,
    Message.REVOKED: Event.REVOKED,
    Message.MOVED: Event.MOVED,
    Message.STOP: Event.STOP,
}
"""The messages of the old process; any other one is out of turn."""


class Action(Enum):
    """What the new process does."""

    SEND_HELLO = "send HELLO"
    CLAIM = "bind, and try to restore a state"
    SEND_READY = "send READY"
    SEND_FAILED = "send FAILED, with the reason"
    ASK_MANAGER = "find out whether this is the main process: FDSTORE=1, and a barrier"
    ACCEPT = "accept clients, READY=1"
    SEND_ACCEPTING = "send ACCEPTING"
    RESTORE = "restore the batch, without touching its clients"
    SEND_TAKEN = "send TAKEN, with the clients that cannot be served here"
    SEND_SERVING = "send SERVING"
    SERVE_BATCH = "serve the batch, if there is one"
    DROP_UNTAKEN = "close our copies of the clients that could not be restored; the old has them"
    TELL_UNTAKEN = "turn away the clients that could not be restored: nobody else has them"
    DROP_BATCH = "close our copies of the batch; the connections go on"
    WRITE_PID = "write our pid into the pidfile"
    KILL_OLD = "kill the old process"
    SEND_STOPPING = "send STOPPING"
    DRAIN = "drain all clients that are here, as in a stop"
    EXIT = "end this process"


_E = Event
_S = State
_A = Action

_BESIDE = (State.MOVING, State.HOLDING, State.DRAINING_REST)

TABLE: Table[State, Event, Action] = {
    (_S.PREPARING, _E.CONFIGURED): (_S.CONFIGURED, (_A.SEND_HELLO,)),
    (_S.CONFIGURED, _E.OFFER): (_S.OFFERED, (_A.CLAIM,)),
    (_S.OFFERED, _E.COMPLETE): (_S.READY, (_A.SEND_READY,)),
    (_S.READY, _E.COMMIT): (_S.MOVING, (_A.ACCEPT, _A.SEND_ACCEPTING)),
    **{
        (state, _E.REFUSED): (_S.ENDED, (_A.SEND_FAILED, _A.EXIT))
        for state in (_S.PREPARING, _S.OFFERED)
    },
    **{
        (state, event): (_S.ENDED, (_A.EXIT,))
        for state in (_S.PREPARING, _S.CONFIGURED, _S.OFFERED)
        for event in (_E.OLD_DIED, _E.STOP)
    },
    (_S.READY, _E.OLD_DIED): (_S.ASKING, (_A.ASK_MANAGER,)),
    (_S.ASKING, _E.IS_MAIN): (_S.ALONE, (_A.ACCEPT, _A.WRITE_PID)),
    **{(_S.ASKING, event): (_S.ENDED, (_A.EXIT,)) for event in (_E.IS_NOT_MAIN, _E.STOP)},
    # This may be the main process already: the signal was meant for the service.
    (_S.READY, _E.STOP): (_S.ENDED, (_A.SEND_STOPPING, _A.EXIT)),
    # Clients move.
    (_S.MOVING, _E.BATCH): (_S.HOLDING, (_A.RESTORE, _A.SEND_TAKEN)),
    (_S.HOLDING, _E.RELEASED): (
        _S.MOVING,
        (_A.SEND_SERVING, _A.SERVE_BATCH, _A.DROP_UNTAKEN),
    ),
    (_S.HOLDING, _E.REVOKED): (_S.MOVING, (_A.DROP_BATCH,)),
    (_S.MOVING, _E.MOVED): (_S.DRAINING_REST, ()),
    # The old process ends, as it should or not.
    (_S.MOVING, _E.OLD_DIED): (_S.ALONE, (_A.WRITE_PID,)),
    (_S.HOLDING, _E.OLD_DIED): (
        _S.ALONE,
        (_A.SERVE_BATCH, _A.TELL_UNTAKEN, _A.WRITE_PID),
    ),
    (_S.DRAINING_REST, _E.OLD_DIED): (_S.ALONE, (_A.WRITE_PID,)),
    **{(state, _E.OVERDUE): (state, (_A.KILL_OLD,)) for state in (*_BESIDE, _S.STOPPING)},
    # A stop.
    (_S.ALONE, _E.STOP): (_S.STOPPING, (_A.DRAIN,)),
    **{(state, _E.STOP): (_S.STOPPING, (_A.SEND_STOPPING, _A.DRAIN)) for state in _BESIDE},
    # The old process has sent this before it has read that the service stops.
    (_S.STOPPING, _E.BATCH): (_S.STOPPING, (_A.RESTORE,)),
    (_S.STOPPING, _E.RELEASED): (
        _S.STOPPING,
        (_A.SEND_SERVING, _A.SERVE_BATCH, _A.DROP_UNTAKEN),
    ),
    (_S.STOPPING, _E.REVOKED): (_S.STOPPING, (_A.DROP_BATCH,)),
    (_S.STOPPING, _E.OLD_DIED): (_S.STOPPING, (_A.SERVE_BATCH, _A.TELL_UNTAKEN)),
    **{(_S.STOPPING, event): (_S.STOPPING, ()) for event in (_E.MOVED, _E.STOP)},
    (_S.STOPPING, _E.DRAINED): (_S.ENDED, (_A.EXIT,)),
}
"""What follows; see the head of this module."""
