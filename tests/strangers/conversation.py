"""Conversations of real clients, recorded, and what a client of a stopping server can be in.

A recorded conversation is a list of turns: what the client said, and what the server answered.
`cases` cuts conversations into cases.  Each is a client that has come so far when the server is
told to stop (`before`), and goes on as soon as the clients at rest have gone (`after`).
"""

from __future__ import annotations

import re
import select
import socket
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import NamedTuple

from support import Client

_CLOCK_MONOTONIC_COARSE = 6
"""linux/time.h; Python has no name for it."""
FIRST_PART = 300_000
"""Bytes of a big answer that have been read when the server is told to stop."""
SMALL = 64 * 1024
"""The receive buffer of a client that reads slowly."""
CHUNK = 200_000
HEAD = 1000
"""Bytes in which the date of an answer is."""
PATIENCE = 10.0
"""Seconds in which a recorded call is answered."""
AT_ONCE = 5.0
"""Seconds in which a server does what it has to do without waiting, however busy the machine is."""


class Turn(NamedTuple):
    said: bytes
    answered: bytes


class Step(NamedTuple):
    """What a client sends, and how many bytes the client then reads."""

    send: bytes
    read: int = 0


class Case(NamedTuple):
    """A client of a server that is told to stop."""

    name: str
    before: list[Step]
    after: list[Step]
    expected: bytes
    """All that the client receives, to the end of file."""
    at_the_gate: int = 0
    """Calls under way, which are waited for."""
    half_closes: bool = False
    """Whether the client says that it sends no more, and waits for the rest of the answer."""
    optional: bool = False
    """Whether the client may receive nothing instead."""

    @property
    def at_rest(self) -> bool:
        return not self.after and not self.at_the_gate and self.read_before == len(self.expected)

    @property
    def read_before(self) -> int:
        return sum(step.read for step in self.before)


def record(call: Callable[[str, int, str], None], what: str, address: str) -> list[Turn]:
    """The turns of a client's conversation with the server at `address`, see `clients`."""
    listener = socket.create_server(("127.0.0.1", 0))
    host, port = listener.getsockname()
    with ThreadPoolExecutor(1) as pool:
        turns = pool.submit(_relay, listener, address)
        try:
            call(host, port, what)
        finally:
            turns.exception()
        return turns.result()


def _relay(listener: socket.socket, address: str) -> list[Turn]:
    """Pass on what one client and the server say, until both have ended or are silent."""
    with listener:
        # Closed at once: a client that tries again is refused.
        client = listener.accept()[0]
    turns = [(bytearray(), bytearray())]
    with client, Client.connect(address).sock as server:
        other = {client: server, server: client}
        while other and (ready := select.select([*other], [], [], PATIENCE)[0]):
            for source in ready:
                data = source.recv(1 << 20)
                if not data:
                    with suppress(OSError):
                        other.pop(source).shutdown(socket.SHUT_WR)
                    continue
                if source is client and turns[-1][1]:
                    turns.append((bytearray(), bytearray()))
                turns[-1][source is server].extend(data)
                other[source].sendall(data)
    return [Turn(bytes(said), bytes(answered)) for said, answered in turns]


def steps(turns: list[Turn]) -> list[Step]:
    return [Step(turn.said, len(turn.answered)) for turn in turns]


def answers(turns: list[Turn]) -> bytes:
    return b"".join(turn.answered for turn in turns)


def cases(recorded: dict[str, list[Turn]], *, lead: int, keeps: bool) -> list[Case]:
    """Every case that the conversations allow.

    `recorded`: by the name of the call.  `lead`: turns that come before the first call.  `keeps`:
    whether the server takes further calls on the same connection.
    """
    quick, slow = recorded["quick"], recorded["slow"]
    to_call, call = quick[:lead], quick[lead]
    first, rest = _halves(call.said)
    found = [
        Case("silent", [], [], b""),
        Case(
            "mid-request",
            [*steps(to_call), Step(first)],
            [Step(rest, len(call.answered))],
            answers([*to_call, call]),
        ),
        _under_way("executing", slow, lead),
    ]
    if len(call.said) > 2:
        found.append(
            Case(
                "two bytes",
                [*steps(to_call), Step(call.said[:2])],
                [Step(call.said[2:], len(call.answered))],
                answers([*to_call, call]),
            )
        )
    if not keeps:
        found.append(_under_way("pipelined", slow, lead, ignored=call.said))
    if keeps:
        found += [
            Case("at rest", steps([*to_call, call]), [], answers([*to_call, call])),
            Case(
                "mid-request again",
                [*steps([*to_call, call]), Step(first)],
                [Step(rest, len(call.answered))],
                answers([*to_call, call, call]),
            ),
            _under_way("pipelined", slow, lead, [call, call]),
        ]
    if lead:
        found.append(Case("associated", steps(to_call), [], answers(to_call)))
    else:
        # Where there is a session, the end of what the client sends is the end of the session.
        found.append(_under_way("half-closed", slow, lead)._replace(half_closes=True))
    for name in ("big", "paused"):
        if turns := recorded.get(name):
            big = turns[lead]
            read = min(FIRST_PART, len(big.answered) // 3) if name == "big" else 1
            found.append(
                Case(
                    name,
                    [*steps(turns[:lead]), Step(big.said, read)],
                    [Step(b"", len(big.answered) - read)],
                    answers(turns[: lead + 1]),
                    int(name == "paused"),
                )
            )
    if turns := recorded.get("upload"):
        # The head of an answer may come before the end of its request.
        upload = turns[lead] if keeps else _as_one(turns[lead:])
        first, rest = _halves(upload.said)
        found.append(
            Case(
                "mid-upload",
                [*steps(turns[:lead]), Step(first)],
                [Step(rest, len(upload.answered))],
                answers([*turns[:lead], upload]),
            )
        )
    return found


def _under_way(
    name: str, slow: list[Turn], lead: int, more: Sequence[Turn] = (), ignored: bytes = b""
) -> Case:
    """A call that is being executed, with others right behind it."""
    calls = [slow[lead], *more]
    return Case(
        name,
        [*steps(slow[:lead]), Step(b"".join(turn.said for turn in calls) + ignored)],
        [Step(b"", len(answers(calls)))],
        answers([*slow[:lead], *calls]),
        1,
    )


def _as_one(turns: list[Turn]) -> Turn:
    return Turn(b"".join(turn.said for turn in turns), answers(turns))


def _halves(data: bytes) -> tuple[bytes, bytes]:
    return data[: len(data) // 2], data[len(data) // 2 :]


def await_next_tick() -> None:
    """Wait until the kernel's clock of 4 ms has moved on.

    The kernel notes with this clock when bytes come and go.  Half a request that follows an answer
    sooner may count as at rest: docs/handlers.md.
    """
    tick = time.clock_gettime(_CLOCK_MONOTONIC_COARSE)
    while time.clock_gettime(_CLOCK_MONOTONIC_COARSE) == tick:
        time.sleep(0)


class Player:
    """A client that does what a case says, and keeps what it receives."""

    def __init__(self, case: Case, address: str) -> None:
        self.case = case
        self.received = bytearray()
        self.over = False
        """Whether the client has heard the end of file."""
        self.client = Client.connect(address, receive_buffer=SMALL)
        self.client.sock.settimeout(AT_ONCE)

    def begin(self) -> None:
        self._take(self.case.before)
        if self.case.half_closes:
            self.client.finish()

    def go_on(self) -> None:
        self._take(self.case.after)

    def _take(self, taken: list[Step]) -> None:
        for step in taken:
            if step.send:
                await_next_tick()
                self.client.send(step.send)
            left = step.read
            while left:
                data = self.client.recv(min(left, CHUNK))
                assert data, f"{self}: end of file, {left} bytes are missing"
                self.received += data
                left -= len(data)
            self.check()

    def hear_out(self) -> None:
        """Read to the end of file, and close."""
        while data := self.client.recv():
            self.received += data
        self.check()
        self.over = True
        self.client.close()

    def hear_it_cut(self) -> None:
        """Read to the end, which may be a reset and may be anywhere in the right answer."""
        with suppress(ConnectionError):
            while data := self.client.recv():
                self.received += data
        self.check()
        self.client.close()

    def check(self) -> None:
        """Nothing but the beginning of the right answers has come."""
        received, expected = self.received, self.case.expected
        head = normal(received[:HEAD])
        right = normal(expected[:HEAD]).startswith(head)
        if right and received[HEAD:] == expected[HEAD : len(received)]:
            return
        whole, expected = head + received[HEAD:], normal(expected[:HEAD]) + expected[HEAD:]
        differing = (at for at, (a, b) in enumerate(zip(whole, expected, strict=False)) if a != b)
        at = next(differing, len(expected))
        raise AssertionError(
            f"{self}: wrong byte {at} of {len(expected)}: {bytes(whole[at : at + 60])!r}"
            f" after {bytes(whole[:at][-60:])!r}, right is {bytes(expected[at : at + 60])!r}"
        )

    @property
    def complete(self) -> bool:
        """Whether the client has received what it is to receive."""
        if self.case.optional and not self.received:
            return True
        return len(self.received) == len(self.case.expected)

    def __str__(self) -> str:
        return f"client {self.case.name!r}"


def normal(head: bytes | bytearray) -> bytes:
    """The beginning of answers without what differs from time to time: the date of HTTP."""
    return re.sub(rb"Date: [^\r]{29}", b"Date: " + bytes(29), bytes(head))
