"""The messages of varlink, right and wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graced.control.varlink import (
    MAX_CALL,
    Decoder,
    MalformedError,
    VarlinkError,
    call_of,
    encode,
    error_reply,
    reply,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(-1e300, 1e300) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
OBJECTS = st.dictionaries(st.text(), JSON, max_size=4)


def decoded(data: bytes, step: int = MAX_CALL) -> list[dict[str, Any]]:
    decoder = Decoder()
    found: list[dict[str, Any]] = []
    for at in range(0, len(data), step):
        decoder.feed(data[at : at + step])
        found += decoder.messages()
    assert not decoder.pending
    return found


@given(st.lists(OBJECTS, max_size=5), st.integers(1, 50))
def test_messages_survive_however_they_are_cut(messages: list[dict[str, Any]], step: int) -> None:
    assert decoded(b"".join(map(encode, messages)), step) == messages


@given(st.lists(st.binary(max_size=200), max_size=5))
def test_any_bytes_are_objects_or_malformed(parts: list[bytes]) -> None:
    decoder = Decoder()
    for part in parts:
        decoder.feed(part)
        try:
            for message in decoder.messages():
                assert isinstance(message, dict)
                call = call_of(message)
                assert isinstance(call.method, str)
                assert isinstance(call.parameters, dict)
        except MalformedError:
            return


@given(OBJECTS)
def test_any_object_is_a_call_or_malformed(message: dict[str, Any]) -> None:
    try:
        call = call_of(message)
    except MalformedError:
        return
    assert (type(call.method), type(call.parameters)) == (str, dict)
    assert (type(call.more), type(call.oneway)) == (bool, bool)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"{\0", "not JSON"),
        (b"\0", "not JSON"),
        (b"\xff\0", "not JSON"),
        (b'{"a": NaN}\0', "NaN is no number"),
        (b"[]\0", "not an object"),
        (b"1\0", "not an object"),
        (b"[" * 60000 + b"\0", "nested too deeply"),
        (b"1" * 60000 + b"\0", "not JSON"),
        (b" " * (MAX_CALL + 1), f"more than {MAX_CALL} bytes"),
        (b" " * (MAX_CALL + 1) + b"{}\0", f"more than {MAX_CALL} bytes"),
    ],
)
def test_malformed_message(data: bytes, reason: str) -> None:
    decoder = Decoder()
    decoder.feed(data)
    with pytest.raises(MalformedError, match=reason):
        list(decoder.messages())


def test_longest_message() -> None:
    data = b" " * (MAX_CALL - 2) + b"{}\0"
    assert decoded(data) == [{}]


@pytest.mark.parametrize(
    "message",
    [
        {},
        {"method": 1},
        {"method": "a.B", "parameters": []},
        {"method": "a.B", "more": 1},
        {"method": "a.B", "oneway": "yes"},
        {"method": "a.B", "upgrade": True},
    ],
)
def test_malformed_call(message: dict[str, Any]) -> None:
    with pytest.raises(MalformedError):
        call_of(message)


def test_call() -> None:
    bare = call_of({"method": "a.B"})
    assert (bare.method, bare.parameters, bare.more, bare.oneway) == ("a.B", {}, False, False)
    full = call_of({"method": "a.B", "parameters": {"x": 1}, "more": True, "oneway": True})
    assert (full.parameters, full.more, full.oneway) == ({"x": 1}, True, True)


def test_replies() -> None:
    assert json.loads(reply({"x": 1})[:-1]) == {"parameters": {"x": 1}}
    assert json.loads(reply({}, continues=True)[:-1]) == {"parameters": {}, "continues": True}
    error = VarlinkError("a.Wrong", parameter="\ud800")
    assert json.loads(error_reply(error)[:-1]) == {
        "error": "a.Wrong",
        "parameters": {"parameter": "\ud800"},
    }
