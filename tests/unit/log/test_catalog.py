"""The message catalog has an entry for each event, and names only fields of its record."""

from __future__ import annotations

import re

import pytest

from graced.log import events
from graced.log.event import OTHER_MESSAGE_ID
from support import CHECKOUT

CATALOG = (CHECKOUT / "systemd" / "graced.catalog").read_text()
ENTRIES = dict(re.findall(r"^-- ([0-9a-f]{32})\n(.*?)(?=^-- |\Z)", CATALOG, re.S | re.M))
EVENTS = pytest.mark.parametrize("name", events.ALL)
FURTHER = {"NOT_STARTED": {"STATUS"}}
"""Fields of a record that are not in its text."""


def test_message_ids_are_unique() -> None:
    identities = [*(event.message_id for event in events.ALL.values()), OTHER_MESSAGE_ID]
    assert len(identities) == len(set(identities))
    for identity in identities:
        assert re.fullmatch(r"[0-9a-f]{32}", identity)


def test_entries_follow_order_of_events() -> None:
    identities = [event.message_id for event in events.ALL.values()]
    assert list(ENTRIES) == [*identities, OTHER_MESSAGE_ID]


@EVENTS
def test_entry_names_fields_of_record(name: str) -> None:
    event = events.ALL[name]
    fields = {field.upper() for field in re.findall(r"%\((\w+)(?::[a-z ]+)?\)", event.text)}
    named = set(re.findall(r"@GRACED_(\w+)@", ENTRIES[event.message_id]))
    assert named <= fields | FURTHER.get(name, set())


@EVENTS
def test_form_of_entry(name: str) -> None:
    subject, defined, documentation, empty, *text = ENTRIES[
        events.ALL[name].message_id
    ].splitlines()
    assert re.fullmatch(r"Subject: \S.*[^.]", subject)
    assert defined == "Defined-By: graced"
    assert re.fullmatch(r"Documentation:( man:[\w.-]+\(\d\))+", documentation)
    assert not empty
    assert text
    for line in text:
        assert len(line) < 80
        assert line == line.rstrip()
