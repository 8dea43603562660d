"""What the models have in common: what any client may do, and how many steps are run."""

from __future__ import annotations

from contextlib import ExitStack

from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    rule,
    run_state_machine_as_test,
)

from robustness.connection import Connection
from robustness.scale import scaled

GRACE = 1.5
ENOUGH = 20.0
"""Seconds within which an answer comes, however busy the machine is."""
CONFIG = f"""
[shutdown]
grace_period = {GRACE}
farewell_gap = 0.05
[limits]
stall_timeout = 0
"""


class ClientModel(RuleBasedStateMachine):
    """A server whose clients half-close, stall, close and break off at any time."""

    steps = 0
    """Of all machines of a class together."""

    clients: Bundle[Connection] = Bundle("clients")

    def __init__(self) -> None:
        super().__init__()
        self._belongings = ExitStack()

    @rule(client=clients)
    def half_close(self, client: Connection) -> None:
        if client.here and client.writes:
            client.half_close()

    @rule(client=consumes(clients))
    def close(self, client: Connection) -> None:
        if client.here:
            client.close()

    @rule(client=consumes(clients))
    def reset(self, client: Connection) -> None:
        if client.here:
            client.reset()

    @rule(client=clients)
    def stall(self, client: Connection) -> None:
        client.reads = False

    @invariant()
    def check(self) -> None:
        type(self).steps += 1
        self.pump()

    def pump(self) -> None:
        """Have all clients read what is there."""
        raise NotImplementedError


def run_steps(model: type[ClientModel], wanted: int, each: int) -> None:
    """Run machines of `each` steps, 50 in the large form, until `wanted` steps have been run."""
    began = model.steps
    while model.steps - began < wanted:
        run_state_machine_as_test(
            model,
            settings=settings(
                max_examples=scaled(5, 100),
                stateful_step_count=scaled(each, 50),
                deadline=None,
                print_blob=True,
                suppress_health_check=list(HealthCheck),
            ),
        )
    print(f"{model.steps - began} steps")
