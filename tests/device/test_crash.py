"""A crash: with ``keep = "always"`` established clients live, otherwise they come to an end.

GRACED_FULL=1: as many as were promised, see tests/robustness/conftest.py.
"""

from __future__ import annotations

import socket
import threading

from device.service import Service, rest
from device.test_robustness import await_service, kill
from robustness.scale import scaled

KILLS = scaled(4, 50)
TALKERS = scaled(20, 50)
IDLE = scaled(100, 500)
MESSAGE = 64
LOST = 3.0
"""Seconds after which an echo does not come any more."""


class Talker(threading.Thread):
    """Sends a message and waits for its echo, over and over; a crash may swallow what is under way.

    ``wrong`` is None as long as the connection lives and nothing but whole messages is missing.
    """

    def __init__(self, client: socket.socket) -> None:
        super().__init__()
        self._client = client
        self._client.settimeout(LOST)
        self._ending = threading.Event()
        self.trips = 0
        self.lost = 0
        self.wrong: str | None = None

    def run(self) -> None:
        """Live."""
        try:
            while not self._ending.is_set() and not self.wrong:
                self._trip()
        except OSError as error:
            self.wrong = f"trip {self.trips}: {error}"

    def _trip(self) -> None:
        self.trips += 1
        message = b"%063d\n" % self.trips
        self._client.sendall(message)
        heard = b""
        try:
            while len(heard) < MESSAGE:
                more = self._client.recv(MESSAGE - len(heard))
                if not more:
                    self.wrong = f"trip {self.trips}: the end"
                    return
                heard += more
        except TimeoutError:
            self.lost += MESSAGE - len(heard)
        else:
            if heard != message:
                self.wrong = f"trip {self.trips}: {heard!r}"

    def end(self) -> None:
        """Say no more."""
        self._ending.set()
        self.join()


def test_established_clients_outlive_crash(graced: Service) -> None:
    """Each may lose the message that was under way, and nothing else."""
    graced.drop_in("[Service]\nRestartSec=100ms\n")
    graced.configure('[continuity]\nkeep = "always"\n')
    graced.restart()
    talkers = [Talker(client) for client in graced.connect(TALKERS)]
    idle = graced.connect(IDLE)
    for talker in talkers:
        talker.start()
    for _ in range(KILLS):
        await_service(graced, kill(graced))
    for talker in talkers:
        talker.end()
    lost = sum(talker.lost for talker in talkers)
    print(f"{KILLS} kills: {sum(t.trips for t in talkers)} round trips, {lost} bytes lost")
    assert [talker.wrong for talker in talkers if talker.wrong] == []
    assert lost <= KILLS * TALKERS * MESSAGE
    for client in idle:
        client.sendall(b"still there?")
    for client in idle:
        assert client.recv(64) == b"still there?"
    # Two listeners, those who are kept, and the place for those who are left at a restart.
    store = {"NFileDescriptorStore": "4"}
    assert graced.show("NFileDescriptorStore") == store, "something has accumulated"


def test_without_copies_clients_end_with_crash(graced: Service) -> None:
    graced.drop_in("[Service]\nRestartSec=100ms\n")
    graced.restart()
    clients = graced.connect(20)
    await_service(graced, kill(graced))
    for client in clients:
        try:
            assert rest(client) == b""
        except ConnectionResetError:
            continue
