"""A library without I/O as a stream handler: HTTP by h11, spoken by http.client."""

from __future__ import annotations

from http.client import HTTPConnection
from signal import SIGTERM

import pytest

from support import PATIENCE, Graced, settled

HTTP = ("--handler", "support.http:Http", "--grace", "30")


def connection(graced: Graced) -> HTTPConnection:
    host, _, port = graced.addresses[0].rpartition(":")
    return HTTPConnection(host, int(port), timeout=PATIENCE)


def test_requests_on_one_connection_and_an_idle_client_at_the_stop() -> None:
    with Graced(*HTTP) as graced:
        client = connection(graced)
        for number in range(3):
            client.request("POST", f"/{number}", body=b"x" * 100_000)
            assert client.getresponse().read() == b"POST /%d " % number + b"x" * 100_000
        graced.signal(SIGTERM)
        assert client.sock.recv(1) == b""
        client.close()
        assert graced.wait() == 0
        assert graced.stopped[1:] == (1, 0)


@pytest.mark.parametrize("place", ["headers", "body"])
def test_request_under_way_at_the_stop_is_answered(place: str) -> None:
    request = b"POST /late HTTP/1.1\r\nHost: here\r\nContent-Length: 4\r\n\r\nbody"
    cut = request.index(b"Host" if place == "headers" else b"dy")
    with Graced(*HTTP) as graced, graced.connect() as client:
        client.send(request[:cut])
        assert settled(graced.pid)
        graced.signal(SIGTERM)
        graced.log.wait_for("telling 1 client")
        client.send(request[cut:])
        received = client.recv_to_end()
        assert received.startswith(b"HTTP/1.1 200 ")
        assert received.endswith(b"POST /late body")
        client.close()
        assert graced.wait() == 0


def test_client_that_wants_no_other_request_is_closed() -> None:
    with Graced(*HTTP) as graced, graced.connect() as client:
        client.send(b"GET / HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")
        assert client.recv_to_end().endswith(b"GET / ")
        graced.log.wait_for("closing connection from .*: closed by the handler")
        assert graced.stop() == 0


def test_client_that_speaks_no_http_ends_with_one_record() -> None:
    with Graced(*HTTP) as graced, graced.connect() as client:
        graced.tracebacks = True
        client.send(b"\x00\x01\x02\r\n\r\n")
        assert client.recv_to_end() == b""
        graced.log.wait_for("^<3>the handler of .* failed: h11.*RemoteProtocolError")
        assert graced.log.count("Traceback") == 1
