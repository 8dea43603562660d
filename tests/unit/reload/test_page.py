"""docs/handover.md names the states and messages that there are."""

from __future__ import annotations

import re
from pathlib import Path

from graced.reload import new_side, old_side
from graced.reload.table import Message

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "handover.md").read_text()
PROTOCOL = PAGE.partition("## The protocol\n")[2].partition("\n## ")[0]


def test_each_state_is_on_the_page() -> None:
    states = {state.name for state in (*old_side.State, *new_side.State)}
    assert set(re.findall(r"`([A-Z]+(?:_[A-Z]+)*)`", PROTOCOL)) == states


def test_each_message_is_on_the_page() -> None:
    prose = re.sub(r"`[^`]*`", "", PROTOCOL)
    words = set(re.findall(r"\b[A-Z]{3,}\b", prose)) - {"SOCK", "SEQPACKET"}
    assert words == {message.name for message in Message}


def test_each_action_that_sends_has_a_message() -> None:
    actions = {action.name for action in (*old_side.Action, *new_side.Action)}
    sent = {name.removeprefix("SEND_") for name in actions if name.startswith("SEND_")}
    assert sent == {message.name for message in Message}


def test_each_message_is_an_event_of_the_other_process() -> None:
    for sender, hearer in ((new_side, old_side), (old_side, new_side)):
        sent = {f"SEND_{message.name}" for message in hearer.HEARD}
        actions = {action.name for action in sender.Action}
        assert {name for name in actions if name.startswith("SEND_")} == sent
