"""What clients do around a goodbye, whatever kind of handler they have."""

from __future__ import annotations

from contextlib import ExitStack
from signal import SIGTERM

from support import FAREWELL, Client, Graced

IN_PARTS = b"part 0\npart 1\npart 2\n"
"""The answer of a handler that answers in parts."""


def stop_between_parts(graced: Graced, client: Client) -> None:
    """The signal comes when the client has the first part of its answer."""
    client.send(b"hello\n")
    heard = client.recv_exactly(7)
    graced.signal(SIGTERM)
    assert heard + client.recv_exactly(len(IN_PARTS) - len(heard)) == IN_PARTS


def talk_until_told(graced: Graced, client: Client) -> None:
    """Stop an echo; its client sends as soon as it has its answer, and hears the farewell alone."""
    client.echo(b"hello")
    graced.signal(SIGTERM)
    for number in range(1_000_000):
        message = b"%7d" % number
        client.send(message)
        heard = client.recv()
        if heard != message:
            break
    assert heard == FAREWELL
    assert client.recv_exactly(7) == message
    client.close()
    assert graced.wait() == 0


def stop_with_hundred_clients(graced: Graced) -> None:
    """Stop an echo that declares no farewell; each client hears its end and leaves."""
    with ExitStack() as stack:
        clients = [stack.enter_context(graced.connect()) for _ in range(100)]
        for client in clients:
            client.echo(b"hello")
        graced.signal(SIGTERM)
        for client in clients:
            assert client.recv_to_end() == b""
            client.close()
        assert graced.wait() == 0
        assert graced.stopped[1:] == (100, 0)
