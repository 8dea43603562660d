"""A world in which an old and a new process reload: processes, channel, clients, systemd.

The two processes do what the real tables say (`graced.reload.old_side`, `new_side`).  Everything
else is as docs/handover.md says, and as small as possible.  `steps` gives every next world: any
message may be read, either process may die or hang, time may run out, and the service may be
stopped, in any order.  What must never be true of a world is in `reload.promises`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from graced.reload import new_side, old_side
from graced.reload.new_side import Action as NewAction
from graced.reload.new_side import Event as NewEvent
from graced.reload.new_side import State as New
from graced.reload.old_side import Action as OldAction
from graced.reload.old_side import Event as OldEvent
from graced.reload.old_side import State as Old
from graced.reload.table import Message, UnexpectedEventError, step

if TYPE_CHECKING:
    from graced.reload.table import Table

Clients = frozenset[str]
NONE: Clients = frozenset()
_AFTER_COMMIT = {Old.COMMITTED, Old.MOVING, Old.HOLDING, Old.RELEASING, Old.DRAINING_REST}

MOVABLE = ("a", "b")
"""One batch each."""
RESTING = "r"
"""A client that cannot move."""
ARRIVED = "n"
"""A client that the new process accepts."""


class Tables(NamedTuple):
    """The tables of the two processes; a test may break them."""

    old: Table[Old, OldEvent, OldAction] = old_side.TABLE
    new: Table[New, NewEvent, NewAction] = new_side.TABLE


class World(NamedTuple):
    """Everything that matters at one moment."""

    old: Old = Old.ALONE
    new: New = New.PREPARING
    old_is: str = "up"
    """up, hung or dead."""
    new_is: str = "unborn"
    """unborn, up, hung or dead."""
    to_old: tuple[tuple[Message, Clients], ...] = ()
    to_new: tuple[tuple[Message, Clients], ...] = ()
    served_by_old: Clients = frozenset((*MOVABLE, RESTING))
    served_by_new: Clients = NONE
    batch_of_old: Clients = NONE
    """Frozen, and the old process can take them back."""
    batch_of_new: Clients = NONE
    """Received, and not served."""
    untaken: Clients = NONE
    """Received, and could not be served by the new process."""
    gone: Clients = NONE
    """Drained, or told at a stop."""
    lost: Clients = NONE
    """Clients of a process that has died, which the other process could not have."""
    old_accepts: bool = True
    new_accepts: bool = False
    stays: Clients = NONE
    """Not taken by the new process, and not offered again."""
    freezing: bool = False
    old_drains: bool = False
    new_drains: bool = False
    claims: bool = False
    """Whether the new process binds and restores."""
    asks: bool = False
    """Whether the new process asks systemd for the main process."""
    exits: bool = False
    """Whether the new process is on its way out."""
    moved: bool = False
    """Whether the new process was told that no batch will follow."""
    report: str = ""
    """What the command that has asked for the reload was told."""
    succeeds: bool = False
    """Whether that command is about to end with success."""
    old_knows: bool = False
    """Whether the old process knows of the death of the new one."""
    new_knows: bool = False
    main: str = "old"
    """What systemd takes for the main process; empty: it has given up, and starts the service."""
    pidfile: str = "old"
    mail: tuple[str, ...] = ()
    """Messages that systemd has not read."""
    reloads: int = 1
    """How often a reload, and each mishap, may still happen."""
    crashes: int = 0
    hangs: int = 0
    stops: int = 0
    smooth: bool = True
    """Whether nothing but a reload has happened so far."""
    stopped: bool = False
    excuse: bool = False
    """Whether the process that was told to stop may have died before it could say so."""
    broken: str = ""
    """A promise that the last step has broken."""


class Step(NamedTuple):
    """A next world."""

    name: str
    world: World
    row: tuple[object, object] | None = None
    """The row of a table that was used."""
    progress: bool = True
    """Whether it happens by itself, and is no mishap."""


def steps(world: World, tables: Tables) -> Iterator[Step]:
    """Every next world."""
    if world.broken or not world.main:
        return
    yield from _of_manager(world)
    if world.old_is == "up":
        yield from _of_old(world, tables)
    if world.new_is == "up":
        yield from _of_new(world, tables)
    yield from _of_watchdog(world)
    yield from _mishaps(world, tables)


# systemd


def _of_manager(world: World) -> Iterator[Step]:
    if world.mail:
        named = world._replace(mail=world.mail[1:])
        if world.main == "old" and world.new_is in {"up", "hung"}:
            named = named._replace(main="new")
        yield Step("systemd reads MAINPID=", named)
    if world.succeeds:
        ended = world._replace(succeeds=False)
        if {"old": world.old_is, "new": world.new_is}[world.pidfile] in {"up", "hung"}:
            ended = ended._replace(main=world.pidfile)
        yield Step("the command ends, and systemd reads the pidfile", ended)
    is_main, other, heir = world.old_is, world.new_is, "new"
    if world.main == "new":
        is_main, other, heir = world.new_is, world.old_is, "old"
    if is_main != "dead":
        return
    if other in {"up", "hung"} and world.pidfile == heir:
        yield Step("systemd reads the pidfile", world._replace(main=heir))
        return
    broken, lost = "", world.lost
    if other in {"up", "hung"}:
        killed = world.served_by_old | world.batch_of_old
        if heir == "new":
            killed = world.served_by_new | reaches_new(world)
        if heir == "old" and world.old_drains and world.moved:
            # The rest is told, and has no more time.
            lost |= killed
        elif killed - lost:
            broken = f"systemd kills the {heir} process, which has {sorted(killed)}"
    dead = world._replace(main="", old_is="dead", new_is="dead", lost=lost, broken=broken)
    yield Step("systemd kills the rest, and starts again", dead)


# The old process


def _of_old(world: World, tables: Tables) -> Iterator[Step]:
    def take(event: OldEvent, here: World = world, payload: Clients = NONE) -> Step:
        return _old_takes(here, tables, event, payload)

    if world.to_old:
        (message, payload), *more = world.to_old
        yield take(old_side.HEARD[message], world._replace(to_old=tuple(more)), payload)
    elif world.new_is == "dead" and not world.old_knows:
        yield take(OldEvent.NEW_DIED, world._replace(old_knows=True))
    if world.old is Old.ALONE and world.reloads and world.main == "old" and not world.mail:
        yield take(OldEvent.RELOAD, world._replace(reloads=world.reloads - 1))
    if world.old is Old.READY and not world.mail:
        yield take(OldEvent.NAMED)
    if world.freezing:
        rested = world._replace(freezing=False)
        movable = [client for client in MOVABLE if client in world.served_by_old - world.stays]
        if movable:
            batch = frozenset(movable[:1])
            frozen = rested._replace(served_by_old=world.served_by_old - batch, batch_of_old=batch)
            yield take(OldEvent.FROZEN, frozen)
        else:
            yield take(OldEvent.NOTHING_MOVABLE, rested)
    elif world.old_drains and not world.batch_of_old:
        gone = world._replace(gone=world.gone | world.served_by_old, served_by_old=NONE)
        yield take(OldEvent.REST_GONE, gone)
    if (world.old, OldEvent.TIMEOUT) in tables.old:
        late = world._replace(smooth=False, excuse=world.excuse or world.stopped)
        yield take(OldEvent.TIMEOUT, late)


def _old_takes(world: World, tables: Tables, event: OldEvent, payload: Clients = NONE) -> Step:
    row = (world.old, event)
    try:
        state, actions = step(tables.old, *row)
    except UnexpectedEventError as error:
        return Step(str(error), world._replace(broken=f"old: {error}"), row)
    after = world._replace(old=state)
    for action in actions:
        after = _act_old(after, action, payload)
    return Step(f"old: {event.value}", after, row)


def _act_old(world: World, action: OldAction, payload: Clients) -> World:
    served, batch = world.served_by_old, world.batch_of_old
    match action:
        case OldAction.START_NEW:
            return world._replace(
                new=New.PREPARING,
                new_is="up",
                new_accepts=False,
                to_old=(),
                to_new=(),
                old_knows=False,
                new_drains=False,
                claims=False,
                asks=False,
                exits=False,
                moved=False,
                report="",
                succeeds=False,
            )
        case OldAction.NAME_NEW:
            return world._replace(mail=(*world.mail, "MAINPID"))
        case OldAction.STOP_ACCEPTING:
            return world._replace(old_accepts=False)
        case OldAction.ACCEPT:
            return world._replace(old_accepts=True)
        case OldAction.FREEZE:
            return world._replace(freezing=True)
        case OldAction.SEND_BATCH:
            return _to_new(world, Message.BATCH, batch)
        case OldAction.TAKE_BACK_UNTAKEN:
            return world._replace(
                served_by_old=served | payload,
                batch_of_old=batch - payload,
                stays=world.stays | payload,
            )
        case OldAction.SEND_RELEASED:
            return _to_new(world, Message.RELEASED)
        case OldAction.CLOSE_COPIES:
            return world._replace(batch_of_old=NONE)
        case OldAction.TAKE_BACK_BATCH:
            return world._replace(served_by_old=served | batch, batch_of_old=NONE)
        case OldAction.DRAIN_REST:
            return world._replace(old_drains=True)
        case OldAction.DRAIN:
            return world._replace(old_drains=True, old_accepts=False)
        case OldAction.SEND_MOVED:
            return _to_new(world._replace(moved=True), Message.MOVED)
        case OldAction.REPORT_SUCCESS | OldAction.REPORT_FAILURE:
            broken = "the command is told twice how the reload went" if world.report else ""
            # A stop ends the command, whose status then decides nothing.
            succeeds = action is OldAction.REPORT_SUCCESS and not world.stopped
            return world._replace(report=action.name, succeeds=succeeds, broken=broken)
        case OldAction.WRITE_NEW_PID:
            return world._replace(pidfile="new")
        case OldAction.KILL_NEW:
            # Whatever it has: nobody may kill a process that serves.
            return world._replace(new_is="dead")
        case OldAction.EXIT:
            broken = ""
            if served | batch or world.old_accepts:
                broken = "the old process ends, and has clients or accepts some"
            elif not (world.stopped or (world.moved and world.report)):
                broken = "the old process ends without a word"
            return world._replace(old_is="dead", broken=broken)
        case _ if action.name.startswith("SEND_"):
            return _to_new(world, Message[action.name.removeprefix("SEND_")])
    return world


def _to_new(world: World, message: Message, payload: Clients = NONE) -> World:
    return world._replace(to_new=(*world.to_new, (message, payload)))


# The new process


def _of_new(world: World, tables: Tables) -> Iterator[Step]:
    if world.exits:
        # On its way out, where it may still hang.
        yield Step("the new process is gone", world._replace(new_is="dead"))
        return
    if world.to_new:
        (message, payload), *more = world.to_new
        read = world._replace(to_new=tuple(more))
        yield from _new_takes(read, tables, new_side.HEARD[message], payload)
    elif world.old_is == "dead" and not world.new_knows:
        yield from _new_takes(world._replace(new_knows=True), tables, NewEvent.OLD_DIED)
    if world.new is New.PREPARING:
        yield from _new_takes(world, tables, NewEvent.CONFIGURED)
    if world.new is New.OFFERED and world.claims:
        yield from _new_takes(world, tables, NewEvent.COMPLETE)
    if world.new in {New.PREPARING, New.OFFERED}:
        yield from _new_takes(world._replace(smooth=False), tables, NewEvent.REFUSED)
    if world.asks and not world.mail:
        answer = NewEvent.IS_MAIN if world.main == "new" else NewEvent.IS_NOT_MAIN
        yield from _new_takes(world._replace(asks=False), tables, answer)
    if world.new_drains and not reaches_new(world):
        gone = world._replace(gone=world.gone | world.served_by_new, served_by_new=NONE)
        yield from _new_takes(gone, tables, NewEvent.DRAINED)
    beside = {New.MOVING, New.HOLDING, New.DRAINING_REST, New.STOPPING}
    if world.new in beside and world.old_is == "hung":
        yield from _new_takes(world, tables, NewEvent.OVERDUE)


def _new_takes(
    world: World, tables: Tables, event: NewEvent, payload: Clients = NONE
) -> Iterator[Step]:
    row = (world.new, event)
    try:
        state, actions = step(tables.new, *row)
    except UnexpectedEventError as error:
        yield Step(str(error), world._replace(broken=f"new: {error}"), row)
        return
    # The client of a batch may be one that cannot be restored here.
    for untaken in (NONE, payload) if NewAction.SEND_TAKEN in actions else (NONE,):
        after = world._replace(new=state, smooth=world.smooth and not untaken)
        for action in actions:
            after = _act_new(after, action, payload, untaken)
        yield Step(f"new: {event.value}", after, row)


def _act_new(world: World, action: NewAction, payload: Clients, untaken: Clients) -> World:
    served, batch = world.served_by_new, world.batch_of_new
    match action:
        case NewAction.CLAIM:
            return world._replace(claims=True)
        case NewAction.ASK_MANAGER:
            return world._replace(asks=True)
        case NewAction.ACCEPT:
            return world._replace(new_accepts=True, served_by_new=served | {ARRIVED})
        case NewAction.RESTORE:
            return world._replace(batch_of_new=payload - untaken, untaken=untaken)
        case NewAction.SEND_TAKEN:
            return _to_old(world, Message.TAKEN, untaken)
        case NewAction.SERVE_BATCH:
            return world._replace(served_by_new=served | batch, batch_of_new=NONE)
        case NewAction.DROP_UNTAKEN:
            return world._replace(untaken=NONE)
        case NewAction.TELL_UNTAKEN:
            broken = "a client is told that is not there" if world.untaken & world.gone else ""
            return world._replace(gone=world.gone | world.untaken, untaken=NONE, broken=broken)
        case NewAction.DROP_BATCH:
            return world._replace(batch_of_new=NONE, untaken=NONE)
        case NewAction.WRITE_PID:
            return world._replace(pidfile="new")
        case NewAction.KILL_OLD:
            return _old_dies(world) if world.old_is == "hung" else world._replace(old_is="dead")
        case NewAction.DRAIN:
            return world._replace(new_drains=True, new_accepts=False)
        case NewAction.EXIT:
            broken = "the new process ends with clients" if served | batch else ""
            return world._replace(exits=True, broken=broken)
        case _ if action.name.startswith("SEND_"):
            return _to_old(world, Message[action.name.removeprefix("SEND_")])
    return world


def _to_old(world: World, message: Message, payload: Clients = NONE) -> World:
    return world._replace(to_old=(*world.to_old, (message, payload)))


def reaches_new(world: World) -> Clients:
    """The clients that the new process could serve although it does not."""
    sent = [payload for message, payload in world.to_new if message is Message.BATCH]
    return world.batch_of_new.union(world.untaken, *sent)


# Deaths, and what else may happen at any time


def _old_dies(world: World) -> World:
    """What the new process has, or is about to get, is not lost."""
    able = world.new_is == "up" and not world.exits
    others = reaches_new(world) if able else NONE
    lost = world.lost | world.served_by_old | (world.batch_of_old - others)
    return world._replace(old_is="dead", lost=lost, served_by_old=NONE, batch_of_old=NONE)


def _new_dies(world: World) -> World:
    """What the old process can take back is not lost."""
    others = world.batch_of_old | world.served_by_old if world.old_is == "up" else NONE
    lost = world.lost | world.served_by_new | (reaches_new(world) - others)
    dead = world._replace(new_is="dead", lost=lost)
    return dead._replace(served_by_new=NONE, batch_of_new=NONE, untaken=NONE)


def _of_watchdog(world: World) -> Iterator[Step]:
    """Nobody feeds the watchdog of systemd."""
    uncommitted = world.new is New.READY and world.old_is == "hung"
    if world.main == "new" and (world.new_is == "hung" or (world.new_is == "up" and uncommitted)):
        yield Step("the watchdog kills the new process", _new_dies(world))
    if world.main == "old" and world.old_is == "hung":
        yield Step("the watchdog kills the old process", _old_dies(world))


def _mishaps(world: World, tables: Tables) -> Iterator[Step]:
    rough = world._replace(smooth=False, excuse=world.excuse or world.stopped)
    if world.crashes:
        crashed = rough._replace(crashes=world.crashes - 1)
        if world.old_is == "up":
            yield Step("the old process dies", _old_dies(crashed), progress=False)
        if world.new_is == "up":
            yield Step("the new process dies", _new_dies(crashed), progress=False)
    if world.hangs:
        hung = rough._replace(hangs=world.hangs - 1)
        if world.old_is == "up":
            yield Step("the old process hangs", hung._replace(old_is="hung"), progress=False)
        if world.new_is == "up":
            yield Step("the new process hangs", hung._replace(new_is="hung"), progress=False)
    if world.stops:
        # The excuse: the process that is told may be dead, or about to be killed.
        rough = world._replace(smooth=False, stops=world.stops - 1)
        told = rough._replace(stopped=True, succeeds=False, excuse=world.excuse or not world.smooth)
        if world.old_is == "up" and (world.main == "old" or world.old in _AFTER_COMMIT):
            # systemd tells the main process, an administrator that of the pidfile.
            yield _old_takes(told, tables, OldEvent.STOP)._replace(progress=False)
        if world.new_is == "up" and not world.exits:
            is_main = world.main == "new" or world.new in {New.READY, New.ASKING}
            for each in _new_takes(told if is_main else rough, tables, NewEvent.STOP):
                yield each._replace(progress=False)
