"""The socket of a handler, by the calls that every socket has."""

from __future__ import annotations

import socket
from pathlib import Path

from graced.handlers.handler_socket import HandlerSocket
from handlers.pair import GAP, Make, say_goodbye, wait_for_the_gap
from support import FAREWELL


def test_calls_that_read(make: Make) -> None:
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


def test_calls_that_write_are_counted(make: Make, tmp_path: Path) -> None:
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


def test_written_bytes_are_known_after_close(make: Make) -> None:
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
