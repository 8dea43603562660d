"""A protocol of objects, each behind its length, over `multiprocessing.connection`."""

from __future__ import annotations

import os
import socketserver
from multiprocessing.connection import Connection

from strangers import gate
from strangers.apps import MODERATE, QUICK, big, checksum


class Conversation(socketserver.BaseRequestHandler):
    """Answers each object, by a duplicate of the descriptor."""

    def handle(self) -> None:
        with Connection(os.dup(self.request.fileno())) as connection:
            while True:
                try:
                    said = connection.recv_bytes()
                except EOFError:
                    return
                connection.send_bytes(_answer(said))


def _answer(said: bytes) -> bytes:
    if said == b"slow":
        gate.wait()
    if said in {b"quick", b"slow"}:
        return QUICK
    return b"".join(big(MODERATE)) if said == b"big" else checksum(said).encode()
