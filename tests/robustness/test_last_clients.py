"""Clients that connect while the server stops: each has an answer, or connect(2) says no.

Nothing of it needs a privilege: run as an ordinary user it is the same.
"""

from __future__ import annotations

import errno
import threading
from contextlib import ExitStack
from pathlib import Path
from signal import SIGTERM

import pytest

from robustness.scale import scaled
from support import FAREWELL, Client, Graced

STOPS = scaled(2, 50)
KNOCKERS = 3
NOT_CONNECTED = {errno.ECONNREFUSED, errno.ENOENT, errno.ECONNRESET}
"""What connect(2) says when the server is gone, or goes while it is being asked."""


class Knocker(threading.Thread):
    """Connects again and again, reads to the end, and notes every answer."""

    def __init__(self, address: str, *, talks: bool) -> None:
        super().__init__(name="knocker")
        self.answers: list[bytes | str] = []
        self.refused = threading.Event()
        self._address = address
        self._talks = talks

    def run(self) -> None:
        while not self.refused.is_set():
            try:
                client = Client.connect(self._address)
            except OSError as error:
                if error.errno not in NOT_CONNECTED:
                    self.answers.append(repr(error))
                self.refused.set()
                return
            with client:
                try:
                    if self._talks:
                        client.send(b"hello")
                    else:
                        client.finish()
                    self.answers.append(client.recv_to_end())
                except OSError as error:
                    self.answers.append(repr(error))


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "[::1]:0", "unix:{}/socket"])
@pytest.mark.parametrize("handler", ["echo", "echo-threaded"])
@pytest.mark.parametrize("deadline", [True, False], ids=["deadline", "departed"])
def test_knocking_clients_have_answer_or_are_refused(
    tmp_path: Path, listen: str, handler: str, deadline: bool
) -> None:
    """`deadline`: a client stays to the end; otherwise the server exits when no client is left."""
    answers: list[bytes | str] = []
    for _ in range(STOPS):
        with (
            Graced(
                "--grace", "0.3", "--handler", handler, listen=listen.format(tmp_path)
            ) as graced,
            ExitStack() as stack,
        ):
            stays = stack.enter_context(graced.served())
            graced.signal(SIGTERM)
            stays.expect_farewell_alone()
            knockers = [Knocker(graced.addresses[0], talks=bool(n)) for n in range(KNOCKERS)]
            for knocker in knockers:
                knocker.start()
            if not deadline:
                stays.close()
            assert graced.wait() == 0
            for knocker in knockers:
                knocker.join()
                answers += knocker.answers
            assert not graced.log.count("cannot refuse new connections")
    print(f"{len(answers)} clients in {STOPS} stops")
    assert len(answers) >= STOPS
    assert set(answers) <= {FAREWELL, b"hello" + FAREWELL}
