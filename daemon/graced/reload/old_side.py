"""The states of the old process in a reload.

The life of the old process, with what the other states are for::

    ALONE           no new process; all clients are served here.  The begin, and the end of a reload
                    that fails
    PREPARING       the new process imports and configures itself
    OFFERED         the new process has the listeners, and tries to get everything else
    READY           the new process has everything; systemd is told that it is the main process
    COMMITTED       the new process may accept clients; so does this process, until that one does
    MOVING          this process accepts no clients, and freezes a batch of those it has
    HOLDING         a batch is frozen and sent; nobody serves it until this process has decided
    RELEASING       the batch is the new process's, if that one lives long enough to serve it
    DRAINING_REST   the clients that cannot move are drained here
    ENDED           nothing is left to do here

    ALONE ─▶ PREPARING ─▶ OFFERED ─▶ READY ─▶ COMMITTED ─▶ MOVING ─▶ DRAINING_REST ─▶ ENDED
                                                          │     ▲
                                                          ▼     │
                                                      HOLDING ─▶ RELEASING

    ABORTING        the new process is being killed, before the commit; all are served here
    RESUMING        the new process has died while a batch was being frozen here
    STOPPING        the service stops; this process drains all clients that it has

**A batch moves in three words.**  TAKEN, of the new process: I could serve it.  RELEASED, of the
old one: do.  SERVING, of the new one: I do, close your copies.  Before RELEASED the old process can
take the batch back at any time, so a handler that restores its state for ever costs its clients
a time-out and no more.  Before SERVING the new process has touched no client, so the old process
can take the batch back when it finds the new one dead, and only then: a time-out is no death.

**The new process dies** is an event that comes last: after every message that the new process has
sent, and once its pidfd says that the process is gone.

Before the commit the new process owns nothing, so it can be killed at any time.  Afterwards it has
clients of its own, and this process never kills it.
"""

from __future__ import annotations

from enum import Enum

from graced.reload.table import Message

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.reload.table import Table


class State(Enum):
    """A state of the old process, see the head of this module."""

    ALONE = "alone"
    PREPARING = "preparing"
    OFFERED = "offered"
    READY = "ready"
    COMMITTED = "committed"
    MOVING = "moving"
    HOLDING = "holding"
    RELEASING = "releasing"
    DRAINING_REST = "draining the rest"
    ABORTING = "aborting"
    RESUMING = "resuming"
    STOPPING = "stopping"
    ENDED = "ended"


class Event(Enum):
    """What happens to the old process; a message of the new one by the name of the message."""

    RELOAD = "a reload is asked for"
    HELLO = "hello"
    READY = "ready"
    FAILED = "failed"
    NAMED = "systemd has read who the main process is"
    """Only while READY: after that nobody waits at the barrier."""
    ACCEPTING = "accepting"
    FROZEN = "a batch is frozen"
    NOTHING_MOVABLE = "no client is left that can move"
    TAKEN = "taken"
    SERVING = "serving"
    STOPPING = "stopping"
    REST_GONE = "the last client is gone, or closed at the deadline"
    """Not while a batch is being frozen, or belongs to this process."""
    NEW_DIED = "the new process is dead, and its messages are read"
    TIMEOUT = "the new process has not answered in time"
    STOP = "a signal to stop"


HEARD: dict[Message, Event] = {
    Message.HELLO: Event.HELLO,
    Message.READY: Event.READY,
    Message.FAILED: Event.FAILED,
    Message.ACCEPTING: Event.ACCEPTING,
    Message.TAKEN: Event.TAKEN,
    Message.SERVING: Event.SERVING,
    Message.STOPPING: Event.STOPPING,
}
"""The messages of the new process; any other one is out of turn."""


class Action(Enum):
    """What the old process does."""

    START_NEW = "start the new process"
    SEND_OFFER = "send OFFER"
    NAME_NEW = "tell systemd MAINPID=, and wait at a barrier"
    SEND_COMMIT = "send COMMIT"
    STOP_ACCEPTING = "accept no more clients; the listeners stay open"
    ACCEPT = "accept clients again"
    FREEZE = "freeze the next batch"
    SEND_BATCH = "send BATCH"
    TAKE_BACK_UNTAKEN = "serve the clients of the batch that the new process cannot have"
    SEND_RELEASED = "send RELEASED"
    CLOSE_COPIES = "close our copies of the batch; the connections go on"
    SEND_REVOKED = "send REVOKED"
    TAKE_BACK_BATCH = "serve the clients of the batch again, if there is one"
    WRITE_NEW_PID = "write the pid of the new process into the pidfile"
    SEND_MOVED = "send MOVED"
    DRAIN_REST = "drain the clients that are still here"
    SEND_STOP = "send STOP"
    DRAIN = "drain all clients that are here, as in a stop"
    HURRY = "end soon: systemd then starts the service again"
    KILL_NEW = "kill the new process"
    REPORT_SUCCESS = "let the command succeed"
    REPORT_FAILURE = "let the command fail, with the reason"
    EXIT = "end this process"


_E = Event
_S = State
_A = Action

_BEFORE_COMMIT = (State.PREPARING, State.OFFERED, State.READY)
_AFTER_COMMIT = (
    State.COMMITTED,
    State.MOVING,
    State.HOLDING,
    State.RELEASING,
    State.DRAINING_REST,
)

TABLE: Table[State, Event, Action] = {
    (_S.ALONE, _E.RELOAD): (_S.PREPARING, (_A.START_NEW,)),
    (_S.ALONE, _E.STOP): (_S.STOPPING, (_A.DRAIN,)),
    # The new process gets everything, or is ended.
    (_S.PREPARING, _E.HELLO): (_S.OFFERED, (_A.SEND_OFFER,)),
    (_S.OFFERED, _E.READY): (_S.READY, (_A.NAME_NEW,)),
    (_S.READY, _E.NAMED): (_S.COMMITTED, (_A.SEND_COMMIT,)),
    **{(state, _E.TIMEOUT): (_S.ABORTING, (_A.KILL_NEW,)) for state in _BEFORE_COMMIT},
    **{(state, _E.FAILED): (_S.ABORTING, (_A.KILL_NEW,)) for state in (_S.PREPARING, _S.OFFERED)},
    **{
        (state, _E.NEW_DIED): (_S.ALONE, (_A.REPORT_FAILURE,))
        for state in (*_BEFORE_COMMIT, _S.ABORTING, _S.COMMITTED)
    },
    **{
        (state, _E.STOP): (_S.STOPPING, (_A.KILL_NEW, _A.DRAIN))
        for state in (*_BEFORE_COMMIT, _S.ABORTING)
    },
    # What was under way when the new process was killed.
    **{(_S.ABORTING, event): (_S.ABORTING, ()) for event in (_E.HELLO, _E.READY, _E.FAILED)},
    # The new process accepts: from here on it has clients of its own.
    (_S.COMMITTED, _E.ACCEPTING): (_S.MOVING, (_A.STOP_ACCEPTING, _A.FREEZE)),
    (_S.MOVING, _E.FROZEN): (_S.HOLDING, (_A.SEND_BATCH,)),
    (_S.HOLDING, _E.TAKEN): (_S.RELEASING, (_A.TAKE_BACK_UNTAKEN, _A.SEND_RELEASED)),
    (_S.RELEASING, _E.SERVING): (_S.MOVING, (_A.CLOSE_COPIES, _A.FREEZE)),
    # When its command succeeds systemd reads the pidfile, and takes the process for the main one.
    (_S.MOVING, _E.NOTHING_MOVABLE): (
        _S.DRAINING_REST,
        (_A.WRITE_NEW_PID, _A.SEND_MOVED, _A.REPORT_SUCCESS, _A.DRAIN_REST),
    ),
    (_S.HOLDING, _E.TIMEOUT): (
        _S.DRAINING_REST,
        (
            _A.SEND_REVOKED,
            _A.TAKE_BACK_BATCH,
            _A.SEND_MOVED,
            _A.REPORT_FAILURE,
            _A.DRAIN_REST,
        ),
    ),
    # An answer to the batch that was revoked.
    (_S.DRAINING_REST, _E.TAKEN): (_S.DRAINING_REST, ()),
    (_S.DRAINING_REST, _E.REST_GONE): (_S.ENDED, (_A.EXIT,)),
    # The new process dies: everything that is not released is served here.
    (_S.MOVING, _E.NEW_DIED): (_S.RESUMING, (_A.ACCEPT,)),
    **{
        (state, _E.NEW_DIED): (
            _S.ALONE,
            (_A.TAKE_BACK_BATCH, _A.ACCEPT, _A.REPORT_FAILURE),
        )
        for state in (_S.HOLDING, _S.RELEASING)
    },
    # A drain cannot be taken back: new clients wait in the queues of the listeners.
    (_S.DRAINING_REST, _E.NEW_DIED): (_S.STOPPING, (_A.HURRY,)),
    (_S.RESUMING, _E.FROZEN): (_S.ALONE, (_A.TAKE_BACK_BATCH, _A.REPORT_FAILURE)),
    (_S.RESUMING, _E.NOTHING_MOVABLE): (_S.ALONE, (_A.REPORT_FAILURE,)),
    (_S.RESUMING, _E.STOP): (_S.STOPPING, (_A.DRAIN,)),
    # A stop: the new process is the main process, and decides.
    **{(state, _E.STOP): (state, (_A.SEND_STOP,)) for state in _AFTER_COMMIT},
    # Maybe it became the main process, and got the signal, before it has read the commit.
    **{
        (state, _E.STOPPING): (_S.STOPPING, (_A.DRAIN,))
        for state in (_S.READY, _S.ABORTING, _S.COMMITTED, _S.MOVING, _S.DRAINING_REST)
    },
    (_S.HOLDING, _E.STOPPING): (
        _S.STOPPING,
        (_A.SEND_REVOKED, _A.TAKE_BACK_BATCH, _A.DRAIN),
    ),
    # The new process serves the batch, or dies.
    (_S.RELEASING, _E.STOPPING): (_S.STOPPING, (_A.DRAIN,)),
    (_S.STOPPING, _E.SERVING): (_S.STOPPING, (_A.CLOSE_COPIES,)),
    (_S.STOPPING, _E.NEW_DIED): (_S.STOPPING, (_A.TAKE_BACK_BATCH,)),
    (_S.STOPPING, _E.FROZEN): (_S.STOPPING, (_A.TAKE_BACK_BATCH,)),
    (_S.STOPPING, _E.REST_GONE): (_S.ENDED, (_A.EXIT,)),
    **{
        (_S.STOPPING, event): (_S.STOPPING, ())
        for event in (
            _E.HELLO,
            _E.READY,
            _E.FAILED,
            _E.NOTHING_MOVABLE,
            _E.STOPPING,
            _E.STOP,
        )
    },
}
"""What follows; see the head of this module."""
