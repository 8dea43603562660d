"""A handler that speaks first, and whose class does not say so."""

from __future__ import annotations

import os
from signal import SIGTERM, SIGUSR1

from functional.foreign import QUICK, foreign
from support import Graced
from support.attempts import attempts

WARNING = (
    r"the handler support.foreign:Banner speaks first, and a client has waited 5 s for that:"
    r" its class needs greets = True"
)


def threads_of(graced: Graced) -> int:
    return len(os.listdir(f"/proc/{graced.pid}/task"))


def test_silent_client_gets_the_first_word_after_a_while(address: str) -> None:
    """Until then client and server wait for each other; all further clients are greeted."""
    with foreign("Banner", listen=address) as graced:
        with graced.connect() as first, graced.connect() as second:
            for client in (first, second):
                assert client.recv_exactly(10) == b"220 hello\n"
            with graced.connect() as third:
                assert third.recv_exactly(10) == b"220 hello\n"
                third.send(b"helo\n")
                assert third.recv_exactly(5) == b"HELO\n"
            graced.signal(SIGTERM)
            for client in (first, second):
                assert client.recv_to_end() == b"221 bye\n"
        assert graced.wait() == 0
        assert graced.stopped.seconds < QUICK
        assert graced.log.count(WARNING) == 1


def test_silent_client_of_a_handler_that_reads_first_is_no_news(address: str) -> None:
    """It gets its handler, which waits for it; and is a probe if it goes without a byte."""
    config = "[log]\nprobes = false"
    handler = "support.handlers:ShoutingHandler"
    with Graced("--handler", handler, listen=address, config=config) as graced:
        threads = threads_of(graced)
        with graced.connect():
            for _ in attempts("its handler has started"):
                if threads_of(graced) > threads:
                    break
        for _ in attempts("its handler has ended"):
            if threads_of(graced) == threads:
                break
        graced.signal(SIGUSR1)
        graced.log.wait_for(r"serving: 0 clients now, 1 so far \(1 without a byte\)")
        assert graced.stop(SIGTERM) == 0
        assert not graced.log.count("connection from|speaks first")
