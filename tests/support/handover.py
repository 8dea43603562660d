"""Clients between two processes of a service."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from signal import SIGUSR2

from support.client import Client
from support.process import LEFT_TO_THE_KERNEL, Daemon
from support.store import PASS, FdStore


@contextmanager
def handed_over(store: FdStore, *options: str) -> Iterator[tuple[str, Client]]:
    """An address, and a client of the daemon that was there: the store has both."""
    env = {**store.environment, **LEFT_TO_THE_KERNEL}
    with Daemon(*options, env=env, before=PASS) as first:
        address = first.addresses[0]
        client = first.served()
        try:
            client.echo(b"hello")
            first.signal(SIGUSR2)
            assert first.wait() == 79
        except BaseException:
            client.close()
            raise
    with client:
        yield address, client
