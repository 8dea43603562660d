"""A handler of each kind with a state: the number of bytes that its client has sent."""

from __future__ import annotations

import socket
from collections.abc import Sequence

from device.load import Load
from device.service import Service, receive

MODULE = "counting_handlers"
KINDS = ("Blocking", "Stream", "Asyncio")
_PATH = f"/usr/lib/python3/dist-packages/{MODULE}.py"
_CODE = """
import asyncio
import socketserver

import graced


class Counting:
    total = 0

    def answer(self, data):
        if data == b"total?":
            return b"%15d" % self.total
        self.total += len(data)
        return data

    def save(self):
        return b"%d" % self.total

    def restore(self, state):
        self.total = int(state)


class Blocking(Counting, socketserver.BaseRequestHandler):
    def handle(self):
        while data := self.request.recv(65536):
            self.request.sendall(self.answer(data))


class Callbacks(Counting):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(self.answer(data))


class Stream(Callbacks, graced.StreamProtocol):
    pass


class Asyncio(Callbacks, asyncio.Protocol):
    pass
"""


def configure(graced: Service, kind: str) -> None:
    """Have the service run the handler of a kind."""
    graced.device.write(_PATH, _CODE)
    graced.configure(f'[server]\nhandler = "{MODULE}:{kind}"\n')
    graced.restart()


def totals(clients: Sequence[socket.socket]) -> list[int]:
    """What the handlers know of clients that are not in the middle of anything."""
    for client in clients:
        client.sendall(b"total?")
    return [int(receive(client, 15)) for client in clients]


def assert_counted(load: Load, clients: Sequence[socket.socket], before: Sequence[int]) -> None:
    """All that was sent since has been counted, in whichever process."""
    counted = [now - then for now, then in zip(totals(clients), before, strict=True)]
    assert counted == load.sent
