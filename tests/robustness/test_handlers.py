"""Handlers that raise, leak, close twice or never return: no client's loss but their own."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from signal import SIGTERM

import pytest

from robustness.handlers import HERE, Misbehaving
from robustness.measure import Usage
from support import FAREWELL, MOMENT, Client, Graced

DEEDS = [
    name.removeprefix("do_").replace("_", " ")
    for name in vars(Misbehaving)
    if name.startswith("do_")
]
NEVER_RETURN = {"block", "lock", "wait for a child"}
FAIL = {
    "raise": "ValueError: a mistake",
    "exit": "SystemExit: 42",
    "interrupt": "KeyboardInterrupt",
    "raise the unspeakable": "_Unspeakable",
    "forge": "ValueError: oh",
    "recurse": "RecursionError",
    "run out of memory": "MemoryError",
    "raise a group": "many",
    "close and go on": "Bad file descriptor",
    "not block": "temporarily unavailable",
    "time out": "timed out",
}
THREADS = 4


@pytest.mark.parametrize("deed", DEEDS)
def test_handler_that_misbehaves_harms_one_client(deed: str) -> None:
    options = ("--handler", f"{HERE}:Misbehaving", "--grace", "1")
    with Graced(*options) as graced, ExitStack() as stack:
        graced.tracebacks = True
        bystander = stack.enter_context(graced.connect())
        bystander.echo(b"here")
        victim = stack.enter_context(graced.connect())
        victim.echo(b"here, too")
        victim.send(deed.encode())
        if deed in FAIL:
            graced.log.wait_for(f"the handler of {victim.name} failed: .*{FAIL[deed]}")
        if deed not in NEVER_RETURN | {"keep", "detach", "duplicate", "leave a file open"}:
            assert _rest(victim) == b""
        bystander.echo(b"still here")
        another = stack.enter_context(graced.connect())
        another.echo(b"new")
        another.close()

        graced.signal(SIGTERM)
        bystander.expect_farewell_alone()
        bystander.echo(b"and told")
        bystander.close()
        assert graced.wait() == 0
        assert graced.stopped.seconds <= 1 + MOMENT + 0.1
        assert not [line for line in graced.log.lines if line.startswith("<2>")]
        assert "\x1b" not in str(graced.log)
        assert "stopped after" in graced.log.lines[-1]


def _rest(client: Client) -> bytes:
    data = b""
    with suppress(ConnectionResetError):
        while chunk := client.recv():
            data += chunk
    return data


def test_thread_of_failed_handler_serves_next_client() -> None:
    config = f"[limits]\nmax_handler_threads = {THREADS}"
    with Graced("--handler", f"{HERE}:Misbehaving", config=config) as graced:
        graced.tracebacks = True
        usage = Usage(graced.pid)
        for deed in (*FAIL, *FAIL):
            with graced.connect() as client:
                client.send(deed.encode())
                assert _rest(client) == b""
        with ExitStack() as stack:
            clients = [stack.enter_context(graced.connect()) for _ in range(THREADS)]
            for client in clients:
                client.echo(b"served")
            assert usage.threads <= THREADS + 3
            graced.signal(SIGTERM)
            for client in clients:
                client.expect_farewell_alone()
        assert graced.wait() == 0


def test_input_cannot_pass_for_log_record() -> None:
    with Graced("-v") as graced, graced.connect() as client:
        client.echo(b"\n<2>forged\r<2>forged\x1b[2J\x00<2>forged\xc2\x85<2>forged")
        graced.signal(SIGTERM)
        assert client.recv() == FAREWELL
        client.close()
        assert graced.wait() == 0
        assert graced.log.count("^<7>received from .*forged") == 1
        assert graced.log.count("^<2>|^forged|^ *<2>") == 0
        assert not any(set(line) & {"\x1b", "\r", "\x00", "\x85"} for line in graced.log.lines)
