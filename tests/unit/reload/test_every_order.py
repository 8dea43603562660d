"""Every order of messages, deaths, hangs, time-outs and stops, against the real tables.

The world is in `reload.world`.  Nothing here has a socket, a clock or a chance in it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from enum import Enum
from functools import cache
from typing import NamedTuple

import pytest

from graced.reload.new_side import Action as NewAction
from graced.reload.new_side import Event as NewEvent
from graced.reload.new_side import State as New
from graced.reload.old_side import Action as OldAction
from graced.reload.old_side import Event as OldEvent
from graced.reload.old_side import State as Old
from graced.reload.table import UnexpectedEventError, step
from reload.promises import faults, faults_at_end
from reload.world import Tables, World, steps

TABLES = Tables()
WORLDS = (
    World(),
    World(crashes=1),
    World(stops=1),
    World(hangs=1),
    World(crashes=2),
    World(crashes=1, stops=1),
    World(reloads=2, crashes=2),
    World(stops=2),
    World(crashes=1, hangs=1, stops=1),
)
"""What may happen, from little to much."""
FEW = 5
"""The worlds that are explored in less than a second."""


class Found(NamedTuple):
    """What an exploration has found."""

    faults: tuple[str, ...]
    way: tuple[str, ...]
    """The steps to the fault; empty: there is none."""
    worlds: int
    rows: frozenset[object]
    """The rows of the tables that were used."""


def explore(start: World, tables: Tables = TABLES) -> Found:
    """Visit every world that can follow, the nearest first, up to the first fault."""
    before: dict[World, tuple[World, str] | None] = {start: None}
    waiting = deque([start])
    rows: set[object] = set()
    while waiting:
        world = waiting.popleft()
        following = list(steps(world, tables))
        wrong = list(faults(world))
        # A time-out must not be what a reload needs to come to its end.
        if not any(
            each.progress and each.world.smooth == world.smooth and each.world != world
            for each in following
        ):
            wrong += faults_at_end(world)
        if wrong:
            return Found(tuple(wrong), _way(before, world), len(before), frozenset(rows))
        for each in following:
            rows.add(each.row)
            if each.world not in before:
                before[each.world] = (world, each.name)
                waiting.append(each.world)
    return Found((), (), len(before), frozenset(rows))


def _way(before: dict[World, tuple[World, str] | None], world: World) -> tuple[str, ...]:
    names: list[str] = []
    while last := before[world]:
        world, name = last
        names.insert(0, name)
    return tuple(names)


def named(world: World) -> str:
    may = {name: getattr(world, name) for name in ("reloads", "crashes", "hangs", "stops")}
    return " ".join(f"{number} {name}" for name, number in may.items() if number)


explore_ours = cache(explore)
"""Explores our tables, each world once."""


@pytest.mark.parametrize("start", WORLDS, ids=named)
def test_no_order_loses_a_client(start: World) -> None:
    found = explore_ours(start)
    assert found.faults == (), "\n".join(found.way)


def test_every_row_is_needed() -> None:
    used = frozenset[object]().union(*(explore_ours(start).rows for start in WORLDS))
    assert {*TABLES.old, *TABLES.new} - used == set()


class Broken(NamedTuple):
    """A table in which one action is missing."""

    side: str
    state: str
    event: str
    action: str
    tables: Tables

    @property
    def name(self) -> str:
        return f"{self.side} {self.state} {self.event} {self.action}"


def broken_tables() -> Iterator[Broken]:
    """The tables without one of the actions, each in turn."""
    for row, (old, old_actions) in TABLES.old.items():
        for action in old_actions:
            less = tuple(each for each in old_actions if each is not action)
            yield _broken("old", row, action, Tables(old={**TABLES.old, row: (old, less)}))
    for key, (new, new_actions) in TABLES.new.items():
        for lost in new_actions:
            rest = tuple(each for each in new_actions if each is not lost)
            yield _broken("new", key, lost, Tables(new={**TABLES.new, key: (new, rest)}))


def _broken(side: str, row: tuple[Enum, Enum], action: Enum, tables: Tables) -> Broken:
    return Broken(side, row[0].name, row[1].name, action.name, tables)


HARMLESS = {
    # systemd kills the new process when the old one, its main process, has ended.
    "old PREPARING STOP KILL_NEW",
    "old OFFERED STOP KILL_NEW",
    "old ABORTING STOP KILL_NEW",
    # The rest is being drained already; only its deadline changes.
    "old DRAINING_REST STOPPING DRAIN",
    "old DRAINING_REST NEW_DIED HURRY",
    # The same; what the old process does not know is its exit status.
    "new DRAINING_REST STOP SEND_STOPPING",
    # The reason is missing, and the end of the process says the rest.
    "new PREPARING REFUSED SEND_FAILED",
    "new OFFERED REFUSED SEND_FAILED",
}
"""What the world forgives; another reason is beside the action in the table."""


@pytest.mark.parametrize("broken", [*broken_tables()], ids=lambda broken: str(broken.name))
def test_no_action_may_be_missing(broken: Broken) -> None:
    harmless = broken.name in HARMLESS
    worlds = WORLDS[:FEW] if harmless else WORLDS
    assert any(explore(start, broken.tables).faults for start in worlds) is not harmless


OLD, NEW = TABLES
WRONG = {
    "serves a batch that is not released": Tables(
        new={
            **NEW,
            (New.MOVING, NewEvent.BATCH): (
                New.MOVING,
                (NewAction.RESTORE, NewAction.SEND_SERVING, NewAction.SERVE_BATCH),
            ),
        }
    ),
    "takes a released batch back after a time-out": Tables(
        old={
            **OLD,
            (Old.RELEASING, OldEvent.TIMEOUT): (
                Old.DRAINING_REST,
                (OldAction.TAKE_BACK_BATCH, OldAction.REPORT_FAILURE, OldAction.SEND_MOVED),
            ),
        }
    ),
    "closes its copies with the release": Tables(
        old={
            **OLD,
            (Old.HOLDING, OldEvent.TAKEN): (
                Old.RELEASING,
                (OldAction.TAKE_BACK_UNTAKEN, OldAction.SEND_RELEASED, OldAction.CLOSE_COPIES),
            ),
        }
    ),
    "kills a new process that has clients": Tables(
        old={
            **OLD,
            (Old.HOLDING, OldEvent.TIMEOUT): (
                Old.ABORTING,
                (OldAction.KILL_NEW, OldAction.TAKE_BACK_BATCH, OldAction.ACCEPT),
            ),
            (Old.ABORTING, OldEvent.TAKEN): (Old.ABORTING, ()),
        }
    ),
    "stops accepting with the commit": Tables(
        old={
            **OLD,
            (Old.READY, OldEvent.NAMED): (
                Old.COMMITTED,
                (OldAction.STOP_ACCEPTING, OldAction.SEND_COMMIT),
            ),
        }
    ),
    "names the main process when the clients have moved": Tables(
        old={
            **OLD,
            (Old.OFFERED, OldEvent.READY): (Old.COMMITTED, (OldAction.SEND_COMMIT,)),
            (Old.MOVING, OldEvent.NOTHING_MOVABLE): (
                Old.DRAINING_REST,
                (
                    OldAction.NAME_NEW,
                    OldAction.WRITE_NEW_PID,
                    OldAction.SEND_MOVED,
                    OldAction.REPORT_SUCCESS,
                    OldAction.DRAIN_REST,
                ),
            ),
        }
    ),
    "writes its pid while the old process lives": Tables(
        new={
            **NEW,
            (New.READY, NewEvent.COMMIT): (
                New.MOVING,
                (NewAction.WRITE_PID, NewAction.ACCEPT, NewAction.SEND_ACCEPTING),
            ),
        }
    ),
    "succeeds while the pidfile names the old process": Tables(
        old={
            **OLD,
            (Old.MOVING, OldEvent.NOTHING_MOVABLE): (
                Old.DRAINING_REST,
                (OldAction.SEND_MOVED, OldAction.REPORT_SUCCESS, OldAction.DRAIN_REST),
            ),
        }
    ),
    "ends at a signal and tells nobody": Tables(
        new={**NEW, (New.READY, NewEvent.STOP): (New.ENDED, (NewAction.EXIT,))}
    ),
}
"""Mistakes that are easily made."""
EXPECTED = {
    "serves a batch that is not released": "is served by both",
    "takes a released batch back after a time-out": "is served by both",
    "closes its copies with the release": "nobody has ['a']",
    "kills a new process that has clients": "nobody has ['n']",
    "stops accepting with the commit": "nobody accepts",
    "names the main process when the clients have moved": "systemd kills the new process",
    "writes its pid while the old process lives": "systemd kills the old process",
    "succeeds while the pidfile names the old process": "systemd kills the new process",
    "ends at a signal and tells nobody": "go on after a stop",
}


@pytest.mark.parametrize("mistake", WRONG)
def test_mistake_is_found(mistake: str) -> None:
    found = next(filter(None, (explore(start, WRONG[mistake]).faults for start in WORLDS)))
    assert EXPECTED[mistake] in "; ".join(found)


def test_event_without_a_row_changes_nothing() -> None:
    with pytest.raises(UnexpectedEventError, match="serving while alone"):
        step(OLD, Old.ALONE, OldEvent.SERVING)
