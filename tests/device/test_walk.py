"""A random walk over what administrators and nature do to a device.

A state machine of hypothesis edits the configuration and the unit, starts, stops, restarts, kills,
upgrades and reboots, silences the resolver and stops the service manager, in any order.  After each
step the service serves what its configuration says, or has said in one line why not; each client is
served or has an end; no other listener is there; and nothing has grown (`device.world`).

GRACED_FULL=1: as many steps as were promised.  GRACED_SEED=N: the same choices again.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from device.packages import Packages
from device.world import ADDRESSES, CUT, FULL, LATE, TOLD, World, copy_packages
from rigging import Container, Machine
from robustness.scale import Dice, scaled

STEPS = scaled(60, 500)
LONGEST = 20
"""Steps of one walk; the next begins as the last has ended."""
CROWD = 12
"""Clients from which on no other connects: each is asked after each step."""
RARE = 12
"""Steps between two that take a second or more: upgrades and reboots."""

UNITS = ("", "UMask=0007\n", "FileDescriptorStoreMax=8\n", "Nice=5\n")
Listens = st.frozensets(st.sampled_from(sorted(ADDRESSES)), min_size=1)


class Walk(RuleBasedStateMachine):
    """Steps of administrators and nature, all on one device."""

    steps = 0

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        self.taken = 0
        """Steps of this walk: what is possible next depends on nothing that was before it."""
        self.rested = 0
        """The step from which on an upgrade or a reboot may come, see `RARE`."""
        world.reset()

    def _step(self, text: str) -> None:
        Walk.steps += 1
        self.taken += 1
        print(f"{Walk.steps:4} {text}")

    @property
    def serving(self) -> bool:
        """Whether there is a process that serves."""
        return self.world.wanted and self.world.valid

    # Administrators.

    @precondition(lambda self: self.serving and len(self.world.clients) < CROWD)
    @rule()
    def connect(self) -> None:
        self._step("connect")
        self.world.connect()

    @rule(listen=Listens)
    def edit_and_restart(self, listen: frozenset[str]) -> None:
        self._step(f"restart with {sorted(listen)}")
        self.world.configure(listen)
        self.world.order("restart")

    @rule(listen=Listens)
    def edit(self, listen: frozenset[str]) -> None:
        """Leave it at that: the next start reads it, whatever the reason of that start is."""
        self._step(f"edit to {sorted(listen)}")
        self.world.configure(listen)

    @precondition(lambda self: self.serving)
    @rule(verb=st.sampled_from(["restart", "try-restart"]))
    def restart(self, verb: str) -> None:
        self._step(verb)
        self.world.order(verb)

    @precondition(lambda self: self.world.absent == LATE and not self.world.holds_name)
    @rule(name=st.sampled_from(sorted(LATE)))
    def start_before_an_address_is_there(self, name: str) -> None:
        """The others are served meanwhile, and the late one by itself when it has come."""
        self._step(f"start without {name}")
        world = self.world
        world.configure(frozenset({"first", name}))
        world.order("restart")
        world.check()
        world.bring(name)

    @precondition(lambda self: self.serving)
    @rule(verb=st.sampled_from(["restart", "stop and start"]))
    def mistype(self, verb: str) -> None:
        """The clients are told, a line says why, and the next edit heals it."""
        self._step(f"mistype, {verb}")
        world = self.world
        world.configure(world.listen, valid=False)
        world.service.mark()
        for order in ("restart",) if verb == "restart" else ("stop", "start"):
            world.order(order)
        world.end_clients(*TOLD)
        assert any(int(r["PRIORITY"]) <= 3 for r in world.service.own_records())
        world.check()
        world.configure(world.listen)
        world.order("start")

    @rule(text=st.sampled_from(UNITS))
    def change_unit(self, text: str) -> None:
        self._step(f"unit: {text.strip() or 'as it was'}")
        self.world.change_unit(text)

    @rule()
    def stop(self) -> None:
        self._step("stop")
        self.world.order("stop")
        self.world.end_clients(*TOLD)

    @rule()
    def start(self) -> None:
        self._step("start")
        self.world.order("start")

    @rule()
    def reexecute_manager(self) -> None:
        self._step("daemon-reexec")
        self.world.machine.systemctl("daemon-reexec")

    @precondition(lambda self: self.taken >= self.rested)
    @rule()
    def change_version(self) -> None:
        self._step(f"{'downgrade' if self.world.newer else 'upgrade'}")
        self.world.change_version()
        self.rested = self.taken + RARE

    @precondition(lambda self: self.taken >= self.rested)
    @rule()
    def reboot(self) -> None:
        self._step("reboot")
        self.world.reboot()
        self.rested = self.taken + RARE

    # Nature.

    @rule(name=st.sampled_from(sorted(LATE)))
    def come_or_go(self, name: str) -> None:
        """An address that comes is served, with nothing said to the service.

        One that goes stays bound; its clients are gone, and the kernel finds out.
        """
        world = self.world
        self._step(f"{name} {'comes' if name in world.absent else 'goes'}")
        if name in world.absent:
            world.bring(name)
        else:
            world.take_away(name)

    @precondition(lambda self: self.serving)
    @rule()
    def read_the_status(self) -> None:
        self._step("read the status")
        self.world.await_count()

    @precondition(lambda self: self.serving)
    @rule(kind=st.sampled_from(sorted(FULL)), verb=st.sampled_from(["restart", "kill", "stop"]))
    def fill_run(self, kind: str, verb: str) -> None:
        """Nothing that is served minds; a start waits for room, and nobody has to help it."""
        self._step(f"no {kind} in /run, {verb}")
        world = self.world
        if verb == "stop":
            world.order("stop")
            world.end_clients(*TOLD)
        with world.full_run(kind):
            if verb == "restart":
                world.connect()
                world.order("restart")
            elif verb == "kill":
                world.kill()
                world.end_clients(*CUT)
            else:
                world.order("start")
        world.await_return()

    @precondition(lambda self: self.serving)
    @rule()
    def kill(self) -> None:
        self._step("kill -9")
        self.world.kill()
        self.world.end_clients(*CUT)

    @precondition(lambda self: self.serving and isinstance(self.world.machine, Container))
    @rule()
    def stop_manager(self) -> None:
        """Clients notice nothing of a service manager that hangs."""
        self._step("the manager hangs")
        with self.world.manager_stopped():
            self.world.connect()

    @rule(silent=st.booleans())
    def silence_resolver(self, silent: bool) -> None:
        self._step(f"resolver {'silent' if silent else 'gone'}")
        self.world.silence_resolver(silent=silent)

    @precondition(lambda self: not isinstance(self.world.machine, Container))
    @rule()
    def set_clock(self) -> None:
        """Containers share the clock of their host, so only on machines with a kernel."""
        self._step("1970 and back")
        now = self.world.machine.run("date", "+%s").stdout.strip()
        self.world.machine.run("date", "--set", "@86400")
        try:
            self.world.check()
        finally:
            self.world.machine.run("date", "--set", f"@{now}")

    @precondition(lambda self: self.taken > 0)
    @invariant()
    def all_is_well(self) -> None:
        self.world.check()


@pytest.fixture
def world(machine: Machine, debs: Packages, tmp_path: Path) -> Iterator[World]:
    machine.install(*debs)
    newer = debs.rebuilt(tmp_path / "newer", "9.0")
    copy_packages(machine, debs, newer)
    world = World(machine, (debs, newer))
    yield world
    world.close()


def test_walk(world: World) -> None:
    Walk.steps = 0
    dice = Dice()
    print(dice)
    chosen = settings(
        max_examples=4,
        stateful_step_count=LONGEST,
        phases=[Phase.generate],
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    while Walk.steps < STEPS:
        walk: Any = seed(dice.getrandbits(32))(partial(Walk, world))
        run_state_machine_as_test(walk, settings=chosen)
