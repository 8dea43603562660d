"""Handlers that know nothing of graced: no client of theirs ever receives a wrong byte."""

from __future__ import annotations

import hashlib
import os
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from signal import SIGTERM

import pytest

from functional.foreign import CONFIGS, QUICK, foreign
from support import Client, Graced

FILE_SIZE = 50_000_000
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


def head_of(client: Client) -> int:
    """Read the head of an answer of HTTP/1.1, and return the length of the body."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += client.recv_exactly(1)
    assert head.startswith(b"HTTP/1.1 200 OK\r\n"), head
    return int(head.partition(b"Content-Length: ")[2].partition(b"\r")[0])


def answer(client: Client) -> bytes:
    """The body of one answer of HTTP/1.1."""
    return client.recv_exactly(head_of(client))


def hear_goodbye(graced: Graced, client: Client, config: str) -> None:
    """The last client hears the goodbye and departs, and the server ends at once."""
    assert client.recv() == (b"SHUTDOWN" if config else b"")
    client.close()
    assert graced.wait() == 0
    assert graced.stopped.seconds < QUICK


def get(client: Client, path: str) -> None:
    client.send(f"GET {path} HTTP/1.1\r\nHost: here\r\n\r\n".encode())


# At rest.


@pytest.mark.parametrize("requests", [0, 1, 3])
def test_idle_clients_hear_end_of_file_and_stop_ends(requests: int) -> None:
    with foreign("KeepAlive") as graced, ExitStack() as stack:
        clients = [stack.enter_context(graced.served()) for _ in range(20)]
        for client in clients:
            for _ in range(requests):
                get(client, "/hello")
                assert answer(client) == b"GET /hello"
        graced.signal(SIGTERM)
        for client in clients:
            client.expect_end()
            client.close()
        assert graced.wait() == 0
        assert graced.stopped.seconds < QUICK
        assert graced.stopped[1:] == (20, 0)


def test_idle_clients_that_do_not_close_do_not_hold_up_stop() -> None:
    with foreign("KeepAlive") as graced, graced.served() as silent, graced.connect() as client:
        get(client, "/hello")
        assert answer(client) == b"GET /hello"
        assert graced.stop() == 0
        assert graced.stopped.seconds < QUICK
        silent.expect_end()
        client.expect_end()


def test_handler_sends_own_last_words(address: str) -> None:
    with foreign("Lines", listen=address) as graced, graced.connect() as client:
        client.send(b"hello\n")
        assert client.recv() == b"HELLO\n"
        graced.signal(SIGTERM)
        assert client.recv_to_end() == b"221 bye\n"
        client.close()
        assert graced.wait() == 0
        assert graced.stopped[1:] == (1, 0)


def test_client_that_was_only_greeted_is_at_rest(address: str) -> None:
    with foreign("Greeting", listen=address) as graced, graced.connect() as client:
        assert client.recv() == b"220 hello\n"
        graced.signal(SIGTERM)
        assert client.recv_to_end() == b"221 bye\n"
        client.close()
        assert graced.wait() == 0


def test_handler_in_select_hears_end_of_file(address: str) -> None:
    with foreign("Selecting", listen=address) as graced, graced.connect() as client:
        client.send(b"hello")
        assert client.recv() == b"HELLO"
        graced.signal(SIGTERM)
        assert client.recv_to_end() == b"bye"
        client.close()
        assert graced.wait() == 0


def test_new_client_in_drain_hears_end_of_file() -> None:
    with foreign("KeepAlive") as graced, graced.served() as busy:
        busy.send(b"GET /")
        graced.signal(SIGTERM)
        graced.log.wait_for("telling 1 client")
        with graced.connect() as late:
            late.expect_end()
        busy.send(b"hello HTTP/1.1\r\n\r\n")
        assert answer(busy) == b"GET /hello"


# Under way.


@CONFIGS
@pytest.mark.parametrize("before", [0, 1])
def test_half_sent_upload_is_answered(config: str, before: int, address: str) -> None:
    with foreign("KeepAlive", config=config, listen=address) as graced, graced.connect() as client:
        for _ in range(before):
            get(client, "/hello")
            assert answer(client) == b"GET /hello"
        client.send(b"POST / HTTP/1.1\r\nContent-Length: 10\r\n\r\n12345")
        # Another client shows that the drain looks at all clients for longer than the gap.
        with graced.served() as idle:
            graced.signal(SIGTERM)
            idle.recv()
        with suppress(TimeoutError):
            client.sock.settimeout(0.5)
            raise AssertionError(client.recv())
        client.sock.settimeout(60)
        client.send(b"67890")
        assert answer(client) == b"1234567890"
        hear_goodbye(graced, client, config)


@CONFIGS
@pytest.mark.parametrize("when", ["before", "in the drain"])
def test_upload_that_waits_for_leave_is_answered(config: str, when: str, address: str) -> None:
    """The server has spoken last, and the client is in the middle of its request."""
    with (
        foreign("KeepAlive", config=config, listen=address) as graced,
        graced.connect() as client,
        graced.served() as idle,
    ):
        client.send(b"POST / HTTP/1.1\r\nContent-Length: 10\r\n")
        if when == "before":
            client.send(b"Expect: 100-continue\r\n\r\n")
            assert client.recv_exactly(len(CONTINUE)) == CONTINUE
        graced.signal(SIGTERM)
        graced.log.wait_for("telling")
        idle.recv()
        if when == "in the drain":
            client.send(b"Expect: 100-continue\r\n\r\n")
            assert client.recv_exactly(len(CONTINUE)) == CONTINUE
        with suppress(TimeoutError):
            client.sock.settimeout(0.5)
            raise AssertionError(client.recv())
        client.sock.settimeout(60)
        client.send(b"1234567890")
        assert answer(client) == b"1234567890"
        idle.close()
        hear_goodbye(graced, client, config)


@CONFIGS
def test_slow_answer_is_whole(config: str, address: str) -> None:
    with foreign("KeepAlive", config=config, listen=address) as graced, graced.connect() as client:
        get(client, "/slow")
        head = client.recv_exactly(1)
        graced.signal(SIGTERM)
        rest = b""
        while not rest.endswith(b"slow answer"):
            rest += client.recv_exactly(1)
        assert (head + rest).startswith(b"HTTP/1.1 200 OK\r\n")
        hear_goodbye(graced, client, config)


def test_farewell_is_not_in_an_answer_whose_handler_selects_elsewhere() -> None:
    config = '[shutdown]\nfarewell = "SHUTDOWN"'
    with (
        foreign("SelectingElsewhere", config=config) as graced,
        graced.connect() as client,
        graced.served() as silent,
        graced.served() as other,
    ):
        client.send(b"tell me")
        assert client.recv() == b"one, "
        graced.signal(SIGTERM)
        for each in (silent, other):
            each.expect_farewell_alone()
        with suppress(TimeoutError):
            client.sock.settimeout(0.5)
            raise AssertionError(client.recv())
        client.sock.settimeout(60)
        other.send(b"go on")
        assert client.recv_exactly(3) == b"two"


@CONFIGS
def test_pipelined_requests_are_all_answered(config: str, address: str) -> None:
    with foreign("KeepAlive", config=config, listen=address) as graced, graced.connect() as client:
        for path in ("/slow", "/1", "/2", "/slow", "/3"):
            get(client, path)
        graced.signal(SIGTERM)
        bodies = [answer(client) for _ in range(5)]
        assert bodies == [b"slow answer", b"GET /1", b"GET /2", b"slow answer", b"GET /3"]
        assert client.recv() == (b"SHUTDOWN" if config else b"")
        client.close()
        assert graced.wait() == 0


@CONFIGS
@pytest.mark.parametrize("path", ["/file", "/file-by-sendfile"])
def test_long_download_at_limited_rate_is_whole(
    config: str, path: str, address: str, tmp_path: Path
) -> None:
    block = os.urandom(1_000_000)
    file = tmp_path / "file"
    file.write_bytes(block * (FILE_SIZE // len(block)))
    env = {"FOREIGN_FILE": str(file)}
    with (
        foreign("KeepAlive", config=config, listen=address, env=env) as graced,
        graced.connect(receive_buffer=65536) as client,
    ):
        get(client, path)
        assert head_of(client) == FILE_SIZE
        received, count = hashlib.sha256(), 0
        graced.signal(SIGTERM)
        while count < FILE_SIZE:
            data = client.recv_exactly(min(1 << 19, FILE_SIZE - count))
            received.update(data)
            count += len(data)
            # The rate of a slow line: what is limited is not a wait for an event.
            time.sleep(0.01)
        assert received.digest() == hashlib.sha256(file.read_bytes()).digest()
        assert client.recv() == (b"SHUTDOWN" if config else b"")
        client.close()
        assert graced.wait() == 0


# A farewell by a method.


def test_method_gives_each_client_its_farewell() -> None:
    with foreign("Unavailable") as graced, graced.connect() as one, graced.connect() as two:
        for client in (one, two):
            client.send(b"hello\n")
            assert client.recv() == b"HELLO\n"
        graced.signal(SIGTERM)
        for client in (one, two):
            port = client.sock.getsockname()[1]
            client.expect_farewell_alone(f"421 goodbye {port}\n".encode())
            client.send(b"still there\n")
            assert client.recv() == b"STILL THERE\n"
            client.close()
        assert graced.wait() == 0


def test_method_that_fails_is_one_record_and_end_of_file() -> None:
    with foreign("Hopeless") as graced, graced.connect() as client:
        graced.tracebacks = True
        client.send(b"hello\n")
        assert client.recv() == b"HELLO\n"
        graced.signal(SIGTERM)
        assert client.recv_to_end() == b"221 bye\n"
        client.close()
        assert graced.wait() == 0
        assert graced.log.count("Traceback") == 1
