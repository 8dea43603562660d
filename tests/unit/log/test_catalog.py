"""The message catalog says something about each event, in terms of what its record has."""

from __future__ import annotations

import re

import pytest

from graced.log import events
from support import CHECKOUT

CATALOG = (CHECKOUT / "systemd" / "graced.catalog").read_text()
ENTRIES = dict(re.findall(r"^-- ([0-9a-f]{32})\n(.*?)(?=^-- |\Z)", CATALOG, re.S | re.M))
EVENTS = pytest.mark.parametrize("name", events.ALL)
FURTHER = {"NOT_STARTED": {"STATUS"}}
"""Fields that are in a record and not in its text."""


def test_there_is_an_entry_for_each_event_in_the_same_order() -> None:
    identities = [event.message_id for event in events.ALL.values()]
    assert list(ENTRIES) == [*identities, events.OTHER_MESSAGE_ID]


@EVENTS
def test_an_entry_names_fields_that_the_record_has(name: str) -> None:
    event = events.ALL[name]
    fields = {field.upper() for field in re.findall(r"%\((\w+)(?::[a-z ]+)?\)", event.text)}
    named = set(re.findall(r"@GRACED_(\w+)@", ENTRIES[event.message_id]))
    assert named <= fields | FURTHER.get(name, set())


@EVENTS
def test_the_form_of_an_entry(name: str) -> None:
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
