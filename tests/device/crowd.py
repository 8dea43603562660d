"""Many clients at once, idle and busy, and what each of them lived through."""

import socket
import threading

from device.service import FAREWELL, Service, receive, rest
from rigging.errors import PATIENCE

LAST_WORDS = b"one more"


class Busy(threading.Thread):
    """Sends and waits for the echo, over and over, message by message like the article's client.

    ``wrong`` is None as long as every message came back and the farewell came as one of its own.
    """

    def __init__(self, client: socket.socket) -> None:
        super().__init__()
        self._client = client
        self.busy = threading.Event()
        self.wrong: str | None = "it was never told"

    def run(self) -> None:
        """Live."""
        try:
            with self._client as client:
                self.wrong = self._live(client)
        except OSError as error:
            self.wrong = f"a busy client lost its connection: {error}"

    def _live(self, client: socket.socket) -> str | None:
        number = 0
        while True:
            number += 1
            message = b"%d" % number
            client.sendall(message)
            heard = client.recv(65536)
            if heard == FAREWELL:
                heard = client.recv(65536)
                if heard != message:
                    return f"the echo of {message!r}, sent before the farewell, was {heard!r}"
                client.sendall(LAST_WORDS)
                return leave(client)
            if heard != message:
                return f"the echo of {message!r} was {heard!r}"
            if number == 3:
                self.busy.set()


def leave(client: socket.socket) -> str | None:
    """Take the echo of the last words, find that nothing else follows; returns what was wrong."""
    heard = receive(client, len(LAST_WORDS))
    if heard != LAST_WORDS:
        return f"after the farewell the echo was {heard!r}"
    client.shutdown(socket.SHUT_WR)
    left_over = rest(client)
    return f"{left_over!r} came after everything" if left_over else None


class Crowd:
    """Clients of a service of which all have been served at least once."""

    def __init__(self, graced: Service, idle: int, busy: int) -> None:
        self._idle = graced.connect(idle)
        self._busy = [Busy(client) for client in graced.connect(busy)]
        for client in self._busy:
            client.start()
        for client in self._busy:
            assert client.busy.wait(PATIENCE)

    def see_out(self) -> list[str]:
        """Let each hear the farewell, send once more and leave; returns what was wrong."""
        wrong = []
        for client in self._idle:
            heard = client.recv(65536)
            if heard != FAREWELL:
                wrong.append(f"an idle client heard {heard!r}")
            # All at once: each echo comes a moment late, so as not to touch the farewell.
            client.sendall(LAST_WORDS)
        wrong += filter(None, [leave(client) for client in self._idle])
        for client in self._idle:
            client.close()
        for busy in self._busy:
            busy.join()
        return wrong + [busy.wrong for busy in self._busy if busy.wrong is not None]
