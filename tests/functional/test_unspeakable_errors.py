"""Exceptions of handlers whose text or traceback is hard to log: one record each, none forged."""

from __future__ import annotations

import re
from signal import SIGTERM

import pytest

from support import Graced

QUOTING = ("--handler", "support.handlers:QuotingHandler")


@pytest.mark.parametrize(
    "text",
    [
        b"two\nlines",
        b"\n<0>forged\n\n<3>again",
        b"a NUL \0 and more",
        b"no UTF-8: \xff\xfe\xc3",
        b"\x1b]0;title\x07\x1b[2J\r back",
        "\u2028 \u202e \x85".encode(),
        b"%s %(client)s {0} %n",
        b"\n" * 5000,
    ],
    ids=lambda text: repr(text[:12]),
)
def test_text_of_an_exception_is_one_record(text: bytes) -> None:
    with Graced(*QUOTING) as graced:
        graced.tracebacks = True
        with graced.served() as client:
            client.send(text)
            client.expect_end()
        with graced.served() as client:
            client.send(b"the next")
            client.expect_end()
        graced.log.wait_for("<3>.*UnspeakableError: the next")
        # Each line has its level, and the lines after the first are indented.
        assert graced.log.count("^<3>[^ ]") == 2
        assert not graced.log.count("^<0>")
        assert not graced.log.count("^[^<]")
        assert not graced.log.count("[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def test_traceback_of_10000_frames_is_one_record_that_is_cut() -> None:
    with Graced(*QUOTING) as graced:
        graced.tracebacks = True
        with graced.served() as client:
            client.send(b"10000")
            client.expect_end()
        with graced.served() as client:
            client.send(b"the next")
            client.expect_end()
        graced.log.wait_for("<3>.*UnspeakableError: the next")
        assert graced.log.count("^<3>[^ ]") == 2
        assert graced.log.count("at the bottom") >= 1
        assert graced.log.count("^<3>") < 2500


STREAM = ("--handler", "support.streams:Quoting")


@pytest.mark.parametrize(
    "text",
    [
        rb"a lone surrogate \ud800 and its other half \udfff",
        rb"NUL \0, \x1b[2J, \n<0>forged",
        rb"\U0010ffff \u202e \u2028 \x85 \x9b",
    ],
    ids=["surrogates", "controls", "unicode"],
)
def test_text_of_a_stream_handler_is_one_record_each(text: bytes) -> None:
    """Of an exception, and of `logging`, whose logger has a name of the same kind."""
    with Graced(*STREAM) as graced:
        graced.tracebacks = True
        for each in (text, b"the next"):
            with graced.served() as client:
                client.send(each)
                client.expect_end()
        graced.log.wait_for("<3>.*ValueError: the next")
        assert graced.log.count("^<3>[^ ].*failed: ValueError: ") == 2
        assert graced.log.count("^<3>heard ") == 2
        assert not graced.log.count("^<0>")
        levelled = [line for line in graced.log.lines if line.startswith("<")]
        assert not [line for line in levelled if re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f]", line)]
        with graced.served() as client:
            graced.signal(SIGTERM)
            client.expect_end()
        assert graced.wait() == 0


@pytest.mark.parametrize("size", [900, 300_000])
def test_chain_and_group_of_exceptions_are_one_record(size: int) -> None:
    """900 causes; 300 KB of a note beside 300,000 causes."""
    with Graced(*STREAM) as graced:
        graced.tracebacks = True
        for each in (b"%d" % size, b"the next"):
            with graced.served() as client:
                client.send(each)
                client.expect_end()
        graced.log.wait_for("<3>.*ValueError: the next")
        assert graced.log.count("^<3>[^ ].* failed: ") == 2
        assert not graced.log.count("^<0>")
        assert sum(map(len, graced.log.lines)) < 300_000
        assert graced.log.count("^<3>") < 2500


def test_flood_of_one_client_does_not_hide_the_error_of_another() -> None:
    """Connects without a pause, and a stream handler that fails meanwhile."""
    with Graced("--handler", "support.streams:Failing") as graced, graced.served() as client:
        graced.tracebacks = True
        for number in range(2500):
            graced.connect().close()
            if number == 2400:
                client.send(b"7")
                name = client.name
        client.expect_end()
        graced.log.wait_for(f"^<3>the handler of {name} failed: ValueError: seven is not nice")
