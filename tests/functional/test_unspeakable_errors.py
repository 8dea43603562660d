"""Exceptions of handlers whose text or traceback is hard to log: one record each, none forged."""

from __future__ import annotations

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
