"""What a reload promises, of each moment and of the end (docs/handover.md)."""

from __future__ import annotations

from collections.abc import Iterator

from graced.reload.new_side import State as New
from graced.reload.old_side import State as Old
from graced.reload.table import Message
from reload.world import ARRIVED, MOVABLE, RESTING, World, reaches_new


def faults(world: World) -> Iterator[str]:
    """What must not be true at any moment."""
    if world.broken:
        yield world.broken
    if both := world.served_by_new & (world.served_by_old | world.gone):
        yield f"{sorted(both)} is served by both"
    # An old process that finds this one dead would take its clients back.
    unsaid = world.served_by_new & world.batch_of_old
    if unsaid and not any(message is Message.SERVING for message, _ in world.to_old):
        yield f"{sorted(unsaid)} is served by the new process, and the old one can take it back"
    had = world.gone | world.lost
    if world.old_is != "dead":
        had |= world.served_by_old | world.batch_of_old
    if world.new_is != "dead":
        had |= world.served_by_new | reaches_new(world)
    if nobody := world.served_by_new.union((*MOVABLE, RESTING)) - had:
        yield f"nobody has {sorted(nobody)}"
    if not (world.stopped or _is_noticed_soon(world) or _starts_again(world)):
        accepts = (world.old_is == "up" and world.old_accepts) or (
            world.new_is == "up" and world.new_accepts
        )
        if not accepts:
            yield "nobody accepts"


def faults_at_end(world: World) -> Iterator[str]:
    """What must not be true, too, when nothing can happen any more but a mishap."""
    if not world.main:
        return
    alive = [name for name in ("old", "new") if getattr(world, f"{name}_is") in {"up", "hung"}]
    if world.stopped:
        told = world.old is not Old.ALONE and world.new is not New.ALONE
        if alive and (told or not world.excuse):
            yield f"{alive} go on after a stop"
        return
    if len(alive) != 1:
        yield f"{alive} are left"
        return
    (name,) = alive
    state = world.old if name == "old" else world.new
    if state.name != "ALONE":
        yield f"the {name} process is left {state.value}"
    if world.old_is == "up" and world.new_is == "dead" and not world.report:
        yield "nobody says how the reload went"
    if (world.main, world.pidfile) != (name, name):
        yield f"MAINPID is {world.main}, the pidfile says {world.pidfile}, and {name} is left"
    if world.batch_of_old or world.batch_of_new or world.untaken:
        yield "a batch is left"
    if world.smooth and world.reloads == 0 and not world.served_by_new >= {*MOVABLE, ARRIVED}:
        yield f"only {sorted(world.served_by_new)} has moved"


def _starts_again(world: World) -> bool:
    """Whether the old process, alone with clients that are told, ends for the next start."""
    return world.old is Old.STOPPING and world.old_drains and world.new_is == "dead"


def _is_noticed_soon(world: World) -> bool:
    """Whether a process is dead, or hangs, and what that means is still to come."""
    return (
        "hung" in {world.old_is, world.new_is}
        or (world.old_is == "dead" and (not world.new_knows or world.new is New.ASKING))
        or (world.new_is == "dead" and not world.old_knows)
        or {"old": world.old_is, "new": world.new_is, "": ""}[world.main] == "dead"
    )
