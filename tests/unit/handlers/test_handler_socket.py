"""The socket of a handler: farewell and handler take turns."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest

from graced.handlers.handler_socket import HandlerSocket
from support import FAREWELL, PATIENCE, Client

GAP = 0.2
TICK = 0.02
"""Seconds; the kernel counts silence in jiffies."""


class Pair(NamedTuple):
    handler: HandlerSocket
    client: Client


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        return listener.accept()[0], client


@pytest.fixture(params=[tcp_pair, socket.socketpair], ids=["tcp", "unix"])
def make(request: pytest.FixtureRequest) -> Iterator[Callable[..., Pair]]:
    pairs: list[Pair] = []

    def make(farewell: bytes | None = FAREWELL, gap: float = GAP, *, told: bool = False) -> Pair:
        ours, theirs = request.param()
        pairs.append(Pair(HandlerSocket(ours, farewell, gap, told=told), Client(theirs)))
        return pairs[-1]

    yield make
    for pair in pairs:
        pair.handler.close()
        pair.client.close()


def wait_for_the_gap(pair: Pair) -> None:
    """Wait as long as the I/O thread does before it looks again."""
    time.sleep(max(0.0, GAP - pair.handler.silence) + TICK)


def say_goodbye(pair: Pair) -> float:
    pair.handler.begin_drain()
    return pair.handler.say_goodbye()


def nothing_to_read(client: Client) -> bool:
    client.sock.setblocking(False)
    try:
        client.recv()
    except BlockingIOError:
        return True
    finally:
        client.sock.settimeout(PATIENCE)
    return False


class Running:
    """A handler in a thread, as the pool runs it."""

    def __init__(self, pair: Pair, handle: Callable[[HandlerSocket], None]) -> None:
        self._pair = pair
        self._handle = handle
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        self._pair.handler.thread = threading.current_thread()
        with suppress(ConnectionError):
            self._handle(self._pair.handler)

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_failure: object) -> None:
        self._pair.client.close()
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()

    def wait_until_asleep(self, call: str = "") -> None:
        """Wait until the thread sleeps in the kernel."""
        path = Path(f"/proc/self/task/{self._thread.native_id}/syscall")
        deadline = time.monotonic() + PATIENCE
        while not path.read_text().startswith(call) or path.read_text() == "running\n":
            assert time.monotonic() < deadline

    def goodbye(self) -> None:
        """Look at the client until there is nothing more to do, as the I/O thread does."""
        self._pair.handler.begin_drain()
        deadline = time.monotonic() + PATIENCE
        while wait := self._pair.handler.say_goodbye():
            assert time.monotonic() < deadline
            time.sleep(min(wait, TICK))


def answer_lines(request: HandlerSocket) -> None:
    """A protocol: each line is answered, and the end of the input gets a last word."""
    with request.makefile("rb") as lines:
        for line in lines:
            request.sendall(line.upper())
    request.sendall(b"bye")


def test_quiet_connection_gets_farewell_at_once_and_once(make: Callable[..., Pair]) -> None:
    pair = make()
    wait_for_the_gap(pair)
    for _ in range(3):
        assert say_goodbye(pair) == 0.0
    pair.client.expect_farewell_alone()
    assert nothing_to_read(pair.client)


def test_farewell_after_write_waits_for_gap(make: Callable[..., Pair]) -> None:
    pair = make()
    pair.handler.sendall(b"hello")
    assert 0.0 < say_goodbye(pair) <= GAP
    assert pair.client.recv() == b"hello"
    assert nothing_to_read(pair.client)
    wait_for_the_gap(pair)
    say_goodbye(pair)
    pair.client.expect_farewell_alone()


def test_read_waits_for_gap_and_sends_farewell_first(make: Callable[..., Pair]) -> None:
    """A client that answers whatever comes leaves no gap by itself."""
    pair = make()
    pair.handler.begin_drain()
    pair.handler.sendall(b"hello")
    assert pair.client.recv() == b"hello"
    pair.client.send(b"more")
    assert pair.handler.recv(100) == b"more"
    pair.client.expect_farewell_alone()


def test_first_write_after_farewell_waits_for_gap(
    make: Callable[..., Pair],
) -> None:
    pair = make()
    wait_for_the_gap(pair)
    say_goodbye(pair)
    pair.client.send(b"hello?")
    began = time.monotonic()
    assert pair.handler.recv(100) == b"hello?"
    pair.client.expect_farewell_alone()
    pair.handler.sendall(b"yes")
    assert time.monotonic() - began >= GAP
    assert pair.client.recv() == b"yes"


def test_client_with_farewell_gets_no_second_farewell(make: Callable[..., Pair]) -> None:
    pair = make(told=True)
    wait_for_the_gap(pair)
    assert say_goodbye(pair) == 0.0
    pair.handler.sendall(b"hello")
    assert pair.client.recv() == b"hello"
    assert nothing_to_read(pair.client)


def test_empty_farewell_says_nothing_and_no_call_waits(make: Callable[..., Pair]) -> None:
    pair = make(farewell=b"", gap=3600.0)
    assert say_goodbye(pair) == 0.0
    pair.client.send(b"hello")
    assert pair.handler.recv(100) == b"hello"
    pair.handler.sendall(b"hello")
    assert pair.client.recv() == b"hello"


# At rest.


def test_waiting_read_of_client_at_rest_ends(make: Callable[..., Pair]) -> None:
    pair = make(farewell=None)
    with Running(pair, answer_lines) as handler:
        pair.client.send(b"hello\n")
        assert pair.client.recv() == b"HELLO\n"
        handler.goodbye()
        assert pair.client.recv() == b"bye"


def test_waiting_read_of_silent_client_ends(make: Callable[..., Pair]) -> None:
    pair = make(farewell=None)
    with Running(pair, answer_lines) as handler:
        handler.wait_until_asleep()
        handler.goodbye()
        assert pair.client.recv() == b"bye"


@pytest.mark.parametrize("farewell", [None, FAREWELL])
@pytest.mark.parametrize("before", [0, 1, 3], ids=lambda number: f"after {number}")
def test_half_a_request_is_not_at_rest(
    make: Callable[..., Pair], farewell: bytes | None, before: int
) -> None:
    """Also where it came right after the answer to the request before."""
    pair = make(farewell=farewell)
    with Running(pair, answer_lines) as handler:
        for _ in range(before):
            pair.client.send(b"hello\n")
            assert pair.client.recv() == b"HELLO\n"
        pair.client.send(b"wor")
        handler.wait_until_asleep()
        wait_for_the_gap(pair)
        for _ in range(3):
            assert say_goodbye(pair) > 0
        pair.client.send(b"ld\n")
        assert pair.client.recv_exactly(6) == b"WORLD\n"
        handler.goodbye()
        assert pair.client.recv() == (farewell or b"bye")


@pytest.mark.parametrize("farewell", [None, FAREWELL])
def test_half_a_request_behind_another_is_not_at_rest(
    make: Callable[..., Pair], farewell: bytes | None
) -> None:
    """It has been read already, with the request before, which is answered in the drain."""
    pair = make(farewell=farewell)
    gate = threading.Event()

    def answer_slowly(request: HandlerSocket) -> None:
        with request.makefile("rb") as lines:
            for line in lines:
                assert gate.wait(PATIENCE)
                request.sendall(line.upper())
        request.sendall(b"bye")

    with Running(pair, answer_slowly) as handler:
        pair.client.send(b"hello\nwor")
        handler.wait_until_asleep()
        assert say_goodbye(pair) > 0
        gate.set()
        assert pair.client.recv() == b"HELLO\n"
        wait_for_the_gap(pair)
        for _ in range(3):
            assert say_goodbye(pair) > 0
        assert nothing_to_read(pair.client)
        pair.client.send(b"ld\n")
        assert pair.client.recv_exactly(6) == b"WORLD\n"
        handler.goodbye()
        assert pair.client.recv() == (farewell or b"bye")


@pytest.mark.parametrize("timeout", [None, 3600.0])
def test_farewell_does_not_come_between_two_writes(
    make: Callable[..., Pair], timeout: float | None
) -> None:
    """However long the handler pauses; a handler that waits in a read gets it at once."""
    pair = make()
    pair.handler.settimeout(timeout)
    gate = threading.Event()

    def answer_in_two_parts(request: HandlerSocket) -> None:
        while request.recv(100):
            request.sendall(b"one, ")
            assert gate.wait(PATIENCE)
            request.sendall(b"two")

    with Running(pair, answer_in_two_parts) as handler:
        pair.client.send(b"hello")
        assert pair.client.recv() == b"one, "
        handler.wait_until_asleep()
        wait_for_the_gap(pair)
        assert say_goodbye(pair) > 0
        assert nothing_to_read(pair.client)
        gate.set()
        assert pair.client.recv() == b"two"
        handler.goodbye()
        pair.client.expect_farewell_alone()


@pytest.mark.parametrize("timeout", [None, 3600.0])
def test_read_that_waits_since_before_the_drain_is_seen(
    make: Callable[..., Pair], timeout: float | None
) -> None:
    pair = make()
    pair.handler.settimeout(timeout)
    with Running(pair, answer_lines) as handler:
        handler.wait_until_asleep()
        handler.goodbye()
        pair.client.expect_farewell_alone()


def test_request_that_races_with_end_of_file_is_answered() -> None:
    """Linux delivers what arrives after SHUT_RD, over TCP."""
    ours, theirs = tcp_pair()
    with HandlerSocket(ours, None, 0.0, told=False) as handler, Client(theirs) as client:
        handler.begin_drain()
        assert handler.say_goodbye() == 0.0
        client.send(b"hello\n")
        client.finish()
        answer_lines(handler)
        assert client.recv_exactly(9) == b"HELLO\nbye"


def test_client_that_pipelines_gets_all_answers_first(make: Callable[..., Pair]) -> None:
    pair = make()
    pair.client.send(b"a\nb\n")
    pair.client.send(b"c\n" * 5000)
    pair.handler.begin_drain()
    with Running(pair, answer_lines) as handler:
        assert pair.client.recv_exactly(10004) == b"A\nB\n" + b"C\n" * 5000
        handler.goodbye()
        pair.client.expect_farewell_alone()


def test_method_says_farewell_or_returns_it(make: Callable[..., Pair]) -> None:
    pair = make(farewell=None)
    pair.handler.words = lambda: b"503 for you"
    with Running(pair, answer_lines) as handler:
        handler.goodbye()
        pair.client.expect_farewell_alone(b"503 for you")
        pair.client.send(b"hello\n")
        assert pair.client.recv() == b"HELLO\n"


def test_method_without_bytes_says_it_itself(make: Callable[..., Pair]) -> None:
    pair = make(farewell=None)
    pair.handler.words = lambda: pair.handler.sendall(b"503, ")
    with Running(pair, answer_lines) as handler:
        handler.goodbye()
        assert pair.client.recv_exactly(8) == b"503, bye"


def test_method_that_hangs_delays_no_other(make: Callable[..., Pair]) -> None:
    gate = threading.Event()
    pairs = [make(farewell=None) for _ in range(2)]

    def hang() -> bytes:
        assert gate.wait(PATIENCE)
        return b"late"

    pairs[0].handler.words = hang
    wait_for_the_gap(pairs[1])
    for pair in pairs:
        say_goodbye(pair)
    assert pairs[1].handler.recv(1) == b""
    gate.set()
    pairs[0].client.expect_farewell_alone(b"late")


def test_writer_and_reader_in_two_threads_do_not_wait_for_each_other(
    make: Callable[..., Pair],
) -> None:
    """A look into the file of a reader would wait until its read ends."""
    pair = make(farewell=None)
    with pair.handler.makefile("rb") as lines:
        reader = threading.Thread(target=lines.readline)
        reader.start()
        with Running(pair, lambda request: request.sendall(b"before")):
            assert pair.client.recv() == b"before"
            pair.handler.begin_drain()
            pair.handler.thread = threading.current_thread()
            pair.handler.sendall(b"in the drain")
            assert pair.client.recv() == b"in the drain"
        reader.join()


@pytest.mark.parametrize("drain_first", [True, False])
def test_farewell_does_not_come_between_two_writes_while_another_thread_reads(
    make: Callable[..., Pair], *, drain_first: bool
) -> None:
    pair = make()
    gate = threading.Event()

    def read(request: HandlerSocket) -> None:
        with suppress(ConnectionError):
            while request.recv(100):
                pass

    def write(request: HandlerSocket) -> None:
        if drain_first:
            request.begin_drain()
        reader = threading.Thread(target=read, args=(request,))
        reader.start()
        request.sendall(b"one, ")
        assert gate.wait(PATIENCE)
        request.sendall(b"two")
        reader.join()

    with Running(pair, write) as handler:
        assert pair.client.recv() == b"one, "
        handler.wait_until_asleep()
        wait_for_the_gap(pair)
        assert say_goodbye(pair) > 0
        assert nothing_to_read(pair.client)
        gate.set()
        assert pair.client.recv() == b"two"


# Writes that take long.


def test_write_of_nothing_answers_nothing(make: Callable[..., Pair]) -> None:
    pair = make(None)
    pair.handler.begin_drain()
    pair.client.send(b"half a ")
    assert pair.handler.recv(100) == b"half a "
    pair.handler.sendall(b"")
    pair.handler.sendmsg([b""])
    wait_for_the_gap(pair)
    assert say_goodbye(pair) > 0.0
    assert nothing_to_read(pair.client)
    assert not pair.handler.is_at_rest


def test_farewell_is_not_inside_a_write(make: Callable[..., Pair]) -> None:
    pair = make()
    big = b"x" * 10_000_000

    def write(request: HandlerSocket) -> None:
        request.sendall(big)
        while request.recv(100):
            pass

    with Running(pair, write) as handler:
        head = pair.client.recv_exactly(1000)
        for _ in range(3):
            assert say_goodbye(pair) > 0
        assert head + pair.client.recv_exactly(len(big) - 1000) == big
        handler.goodbye()
        pair.client.expect_farewell_alone()


def test_farewell_is_not_inside_sendfile(make: Callable[..., Pair], tmp_path: Path) -> None:
    pair = make()
    big = bytes(range(256)) * 40_000
    (tmp_path / "file").write_bytes(big)

    def write(request: HandlerSocket) -> None:
        with (tmp_path / "file").open("rb") as file:
            request.sendfile(file)
        while request.recv(100):
            pass

    with Running(pair, write) as handler:
        head = pair.client.recv_exactly(1000)
        pair.handler.begin_drain()
        for _ in range(3):
            assert pair.handler.say_goodbye() > 0
            time.sleep(GAP + TICK)
        assert head + pair.client.recv_exactly(len(big) - 1000) == big
        handler.goodbye()
        pair.client.expect_farewell_alone()


@pytest.mark.parametrize("timeout", [None, 3600.0, 0.0])
def test_sending_farewell_never_blocks(make: Callable[..., Pair], timeout: float | None) -> None:
    """The rest of a farewell that does not fit is sent before the handler's next write."""
    farewell = b"long farewell " * 200_000
    pair = make(farewell)
    pair.handler.settimeout(timeout)
    wait_for_the_gap(pair)
    say_goodbye(pair)
    pair.handler.settimeout(None)
    writer = threading.Thread(target=pair.handler.sendall, args=(b"hello",))
    writer.start()
    received = pair.client.recv_exactly(len(farewell) + 5)
    writer.join()
    assert received == farewell + b"hello"


# The end.


@pytest.mark.parametrize("timeout", [None, 3600.0])
def test_remaining_client_gets_farewell_at_end(
    make: Callable[..., Pair], timeout: float | None
) -> None:
    pair = make()
    pair.handler.settimeout(timeout)
    pair.handler.sendall(b"bye")
    assert pair.client.recv() == b"bye"
    for _ in range(2):
        pair.handler.tell_at_end()
    pair.client.expect_farewell_alone()
    assert nothing_to_read(pair.client)


def test_departed_client_gets_no_farewell_at_end(make: Callable[..., Pair]) -> None:
    pair = make()
    pair.client.finish()
    pair.handler.tell_at_end()
    assert nothing_to_read(pair.client)


@pytest.mark.parametrize("half_closes", [False, True])
def test_farewell_that_finds_no_room_comes_at_the_end(
    make: Callable[..., Pair], half_closes: bool
) -> None:
    """The handler has answered, and returns, and its client has not taken the answer yet."""
    pair = make(gap=0.0)
    answer = fill(pair.handler)
    if half_closes:
        pair.client.finish()
    pair.handler.thread = threading.current_thread()
    pair.handler.begin_drain()
    if half_closes:
        assert pair.handler.recv(1) == b""
    with Running(pair, HandlerSocket.tell_at_end) as handler:
        # Over: the kernel has found room after all.
        with suppress(FileNotFoundError, ProcessLookupError):
            handler.wait_until_asleep()
        assert pair.client.recv_exactly(len(answer)) == answer
        assert pair.client.recv_exactly(len(FAREWELL)) == FAREWELL


def fill(request: HandlerSocket) -> bytes:
    """Write until the kernel takes not even a byte; return what was written."""
    written, before = bytearray(), -1
    request.setblocking(False)
    while len(written) > before:
        before = len(written)
        # The kernel moves bytes for a moment after it was full.
        time.sleep(TICK)
        for size in (65536, 1):
            with suppress(BlockingIOError):
                while True:
                    written += bytes(request.send(bytes(size)))
    request.setblocking(True)
    return bytes(written)


def test_client_in_mid_answer_gets_no_farewell_at_the_deadline(make: Callable[..., Pair]) -> None:
    pair = make()
    gate = threading.Event()

    def answer_in_two_parts(request: HandlerSocket) -> None:
        request.sendall(b"one, ")
        assert gate.wait(PATIENCE)
        with suppress(BrokenPipeError):
            request.sendall(b"two")

    with Running(pair, answer_in_two_parts) as handler:
        assert pair.client.recv() == b"one, "
        handler.wait_until_asleep()
        assert not pair.handler.tell_at_deadline()
        pair.handler.end()
        assert pair.client.recv_to_end() == b""
        gate.set()


def test_client_at_rest_gets_farewell_at_the_deadline(make: Callable[..., Pair]) -> None:
    pair = make(gap=3600.0)
    with Running(pair, answer_lines) as handler:
        handler.wait_until_asleep()
        assert pair.handler.tell_at_deadline()
        pair.handler.end()
        assert pair.client.recv_to_end() == FAREWELL


def test_threads_that_say_goodbye_at_once_send_one_farewell(make: Callable[..., Pair]) -> None:
    for _ in range(20):
        pair = make(gap=0.0)
        start = threading.Barrier(4)

        def send(pair: Pair = pair, start: threading.Barrier = start) -> None:
            start.wait()
            say_goodbye(pair)

        threads = [threading.Thread(target=send) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        pair.handler.sendall(b"hello")
        pair.handler.close()
        assert pair.client.recv_to_end() == FAREWELL + b"hello"


def test_farewell_to_departed_client_is_no_error(make: Callable[..., Pair]) -> None:
    pair = make(gap=0.0)
    pair.client.close()
    say_goodbye(pair)
    # The kernel may accept a first write, which the client answers with a reset.
    with suppress(ConnectionError):
        pair.handler.sendall(b"hello")
    with pytest.raises(ConnectionError):
        pair.handler.sendall(b"hello")


@pytest.mark.parametrize("farewell", [None, FAREWELL])
def test_goodbye_on_detached_socket_is_no_error(
    make: Callable[..., Pair], farewell: bytes | None
) -> None:
    pair = make(farewell=farewell, gap=0.0)
    with socket.socket(fileno=pair.handler.detach()) as elsewhere:
        say_goodbye(pair)
        elsewhere.sendall(b"hello")
    assert pair.client.recv_to_end() == b"hello"


# The calls of a socket.


def test_calls_that_read(make: Callable[..., Pair]) -> None:
    pair = make()
    buffer = bytearray(4)
    pair.client.send(b"abcdefghijklmnop")
    assert pair.handler.recv(1, socket.MSG_PEEK) == b"a"
    assert pair.handler.recv(4) == b"abcd"
    assert pair.handler.recv_into(buffer) == 4
    assert buffer == b"efgh"
    assert pair.handler.recv_into(buffer, nbytes=2, flags=0) == 2
    assert buffer == b"ijgh"
    data, *_ = pair.handler.recvmsg(4)
    assert data == b"klmn"
    with pair.handler.makefile("rb") as file:
        assert file.read(2) == b"op"


def test_calls_that_write_are_counted(make: Callable[..., Pair], tmp_path: Path) -> None:
    pair = make()
    (tmp_path / "file").write_bytes(b"klmno")
    assert pair.handler.send(b"ab") == 2
    pair.handler.sendall(memoryview(b"cd"))
    assert pair.handler.sendmsg([b"ef", b"gh"]) == 4
    with pair.handler.makefile("wb", buffering=0) as stream:
        stream.write(b"ij")
    with (tmp_path / "file").open("rb") as file:
        assert pair.handler.sendfile(file) == 5
    assert pair.handler.written == 15
    with pair.handler.dup() as double:
        assert type(double) is socket.socket
        double.sendall(b"p")
    assert pair.client.recv_exactly(16) == b"abcdefghijklmnop"


def test_written_bytes_are_known_after_close(make: Callable[..., Pair]) -> None:
    for finish in ("close", "detach"):
        pair = make()
        pair.handler.sendall(b"hello")
        wait_for_the_gap(pair)
        assert pair.client.recv() == b"hello"
        say_goodbye(pair)
        fd = pair.handler.fileno()
        getattr(pair.handler, finish)()
        if finish == "detach":
            socket.close(fd)
        assert pair.handler.written == 5


def test_handler_socket_takes_over_descriptor() -> None:
    ours, theirs = socket.socketpair()
    fd = ours.fileno()
    with HandlerSocket(ours, FAREWELL, GAP, told=False) as handler, theirs:
        assert isinstance(handler, socket.socket)
        assert handler.fileno() == fd
        assert ours.fileno() == -1
