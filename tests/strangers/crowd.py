"""Clients of a stranger in every case that there is."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from strangers import apps, gate
from strangers.conversation import PATIENCE, Case, Player, Step, Turn, answers, cases, record, steps
from strangers.table import STRANGERS
from support import Graced

_recorded: dict[tuple[str, type[Graced]], dict[str, list[Turn]]] = {}


class Crowd:
    """Clients of a server in every case that there is, and one real client."""

    def __init__(self, name: str, graced: Graced, directory: Path, without: str = "") -> None:
        """`without`: a case that is left out."""
        stranger = STRANGERS[name]
        if stranger.files:
            big = directory / "big"
            big.write_bytes(b"".join(apps.big()))
            # The answer has the time of the file in it.
            os.utime(big, (0, 0))
        self._graced = graced
        self._where = graced.addresses[0]
        host, _, port = self._where.rpartition(":")
        self.call = partial(stranger.call, host, int(port))
        recorded = _recorded.setdefault((name, type(graced)), {})
        for what in stranger.calls.split() if not recorded else ():
            recorded[what] = record(stranger.call, what, self._where)
        found = cases(recorded, lead=stranger.lead, keeps=stranger.keeps)
        self._cases = [case for case in found if case.name != without]
        quick = recorded["quick"]
        self._late = Case("late", [Step(quick[0].said)], [], quick[0].answered, optional=True)
        self.silent = Case("silent so far", [], steps(quick), answers(quick))
        """A client that asks only later."""
        self.players: list[Player] = []
        self.wrong: list[str] = []
        self._belongings = ExitStack()
        self._pool = self._belongings.enter_context(ThreadPoolExecutor(1))
        self._gate = self._belongings.enter_context(gate.Gate(directory / "gate"))

    def __enter__(self) -> Crowd:
        try:
            self._begin()
        except BaseException as error:
            self.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def _begin(self) -> None:
        for case in self._cases:
            player = Player(case, self._where)
            self._belongings.callback(player.client.close)
            self.players.append(player)
            self._try(player, player.begin)
        self._real = self._pool.submit(self.call, "slow")
        self._gate.await_servers(1 + sum(case.at_the_gate for case in self._cases))
        # All that came before is accepted and under way when this client has its answer.
        self.call("quick")

    def __exit__(self, *failure: Any) -> None:
        if failure[0] is not None:
            # Nothing waits for an answer any more.
            self._graced.process.kill()
        self._belongings.__exit__(*failure)
        if failure[0] is None:
            assert not self.wrong, "\n".join(self.wrong)

    def dismiss_the_resting(self) -> None:
        """Hear that the clients at rest are sent away at once."""
        for player in self._of(at_rest=True):
            self._try(player, player.hear_out)

    def open_the_gate(self) -> None:
        self._gate.open()

    def finish_the_busy(self) -> None:
        """Open the gate, and hear all answers."""
        self.open_the_gate()
        for player in self._of(at_rest=False):
            self._try(player, player.go_on, player.hear_out)
        try:
            self._real.result(PATIENCE)
        except Exception as error:
            self.wrong.append(f"real client: {error!r}")

    def expect_the_busy_are_cut_off(self) -> None:
        """Hear what has come of the answers under way when the server has gone."""
        for player in self._of(at_rest=False):
            self._try(player, player.hear_it_cut)
        if self._real.exception(PATIENCE) is None:
            self.wrong.append("real client: has an answer that nobody gave")

    def expect_late_client_is_sent_away(self) -> None:
        """A client that comes during the drain, with a request: end of file, and no reset.

        A handler that has been started may find the request before the end of file, and answer.
        """
        late = Player(self._late, self._where)
        with late.client:
            self._try(late, late.begin, late.hear_out)

    def _of(self, *, at_rest: bool) -> list[Player]:
        return [player for player in self.players if player.case.at_rest is at_rest]

    def _try(self, player: Player, *actions: Callable[[], None]) -> None:
        try:
            for action in actions:
                action()
            if player.over:
                assert player.complete, (
                    f"{player}: {len(player.received)} bytes of {len(player.case.expected)}"
                )
        except (AssertionError, OSError) as error:
            self.wrong.append(f"{player}: {error!r}")
            player.client.close()
