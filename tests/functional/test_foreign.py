"""Handlers that know nothing of graced: no client of theirs ever receives a wrong byte."""

from __future__ import annotations

import hashlib
import os
import ssl
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from signal import SIGTERM
from typing import Any

import pytest

from support import Client, Graced, environment

LONG = "30"
"""Seconds of grace: a stop that takes as long has waited for the deadline."""
QUICK = 5.0
"""Seconds: the server has not waited for the deadline, however busy the machine is."""
WRITTEN = '[shutdown]\nfarewell = "SHUTDOWN"'
CONFIGS = pytest.mark.parametrize("config", ["", WRITTEN], ids=["undeclared", "declared"])
FILE_SIZE = 50_000_000


def foreign(name: str, grace: str = LONG, **more: Any) -> Graced:
    return Graced("--handler", f"support.foreign:{name}", "--grace", grace, **more)


def head_of(client: Client) -> int:
    """Read the head of an answer of HTTP/1.1, and return the length of the body."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += client.recv_exactly(1)
    assert head.startswith(b"HTTP/1.1 200 OK\r\n"), head
    return int(head.partition(b"Content-Length: ")[2].partition(b"\r")[0])


def answer(client: Client) -> bytes:
    """The body of one answer of HTTP/1.1."""
    return client.recv_exactly(head_of(client))


def hear_goodbye(graced: Graced, client: Client, config: str) -> None:
    """The last client hears the goodbye and departs, and the server ends at once."""
    assert client.recv() == (b"SHUTDOWN" if config else b"")
    client.close()
    assert graced.wait() == 0
    assert graced.stopped.seconds < QUICK


def get(client: Client, path: str) -> None:
    client.send(f"GET {path} HTTP/1.1\r\nHost: here\r\n\r\n".encode())


# At rest.


@pytest.mark.parametrize("requests", [0, 1, 3])
def test_idle_clients_hear_end_of_file_and_the_stop_ends(requests: int) -> None:
    with foreign("KeepAlive") as graced, ExitStack() as stack:
        clients = [stack.enter_context(graced.served()) for _ in range(20)]
        for client in clients:
            for _ in range(requests):
                get(client, "/hello")
                assert answer(client) == b"GET /hello"
        graced.signal(SIGTERM)
        for client in clients:
            client.expect_end()
            client.close()
        assert graced.wait() == 0
        assert graced.stopped.seconds < QUICK
        assert graced.stopped[1:] == (20, 0)


def test_idle_clients_that_do_not_close_do_not_hold_up_the_stop() -> None:
    with foreign("KeepAlive") as graced, graced.served() as silent, graced.connect() as client:
        get(client, "/hello")
        assert answer(client) == b"GET /hello"
        assert graced.stop() == 0
        assert graced.stopped.seconds < QUICK
        silent.expect_end()
        client.expect_end()


def test_handler_finishes_in_its_own_words(address: str) -> None:
    with foreign("Lines", listen=address) as graced, graced.connect() as client:
        client.send(b"hello\n")
        assert client.recv() == b"HELLO\n"
        graced.signal(SIGTERM)
        assert client.recv_to_end() == b"221 bye\n"
        client.close()
        assert graced.wait() == 0
        assert graced.stopped[1:] == (1, 0)


def test_client_that_was_only_greeted_is_at_rest(address: str) -> None:
    with foreign("Greeting", listen=address) as graced, graced.connect() as client:
        assert client.recv() == b"220 hello\n"
        graced.signal(SIGTERM)
        assert client.recv_to_end() == b"221 bye\n"
        client.close()
        assert graced.wait() == 0


def test_handler_in_select_hears_end_of_file(address: str) -> None:
    with foreign("Selecting", listen=address) as graced, graced.connect() as client:
        client.send(b"hello")
        assert client.recv() == b"HELLO"
        graced.signal(SIGTERM)
        assert client.recv_to_end() == b"bye"
        client.close()
        assert graced.wait() == 0


def test_new_client_in_the_drain_hears_end_of_file() -> None:
    with foreign("KeepAlive") as graced, graced.served() as busy:
        busy.send(b"GET /")
        graced.signal(SIGTERM)
        graced.log.wait_for("telling 1 client")
        with graced.connect() as late:
            late.expect_end()
        busy.send(b"hello HTTP/1.1\r\n\r\n")
        assert answer(busy) == b"GET /hello"


# Under way.


@CONFIGS
@pytest.mark.parametrize("before", [0, 1])
def test_half_sent_upload_is_answered(config: str, before: int, address: str) -> None:
    with foreign("KeepAlive", config=config, listen=address) as graced, graced.connect() as client:
        for _ in range(before):
            get(client, "/hello")
            assert answer(client) == b"GET /hello"
        client.send(b"POST / HTTP/1.1\r\nContent-Length: 10\r\n\r\n12345")
        # Another client shows that the drain looks at all clients for longer than the gap.
        with graced.served() as idle:
            graced.signal(SIGTERM)
            idle.recv()
        with suppress(TimeoutError):
            client.sock.settimeout(0.5)
            raise AssertionError(client.recv())
        client.sock.settimeout(60)
        client.send(b"67890")
        assert answer(client) == b"1234567890"
        hear_goodbye(graced, client, config)


@CONFIGS
def test_slow_answer_is_whole(config: str, address: str) -> None:
    with foreign("KeepAlive", config=config, listen=address) as graced, graced.connect() as client:
        get(client, "/slow")
        head = client.recv_exactly(1)
        graced.signal(SIGTERM)
        rest = b""
        while not rest.endswith(b"slow answer"):
            rest += client.recv_exactly(1)
        assert (head + rest).startswith(b"HTTP/1.1 200 OK\r\n")
        hear_goodbye(graced, client, config)


@CONFIGS
def test_pipelined_requests_are_all_answered(config: str, address: str) -> None:
    with foreign("KeepAlive", config=config, listen=address) as graced, graced.connect() as client:
        for path in ("/slow", "/1", "/2", "/slow", "/3"):
            get(client, path)
        graced.signal(SIGTERM)
        bodies = [answer(client) for _ in range(5)]
        assert bodies == [b"slow answer", b"GET /1", b"GET /2", b"slow answer", b"GET /3"]
        assert client.recv() == (b"SHUTDOWN" if config else b"")
        client.close()
        assert graced.wait() == 0


@CONFIGS
@pytest.mark.parametrize("path", ["/file", "/file-by-sendfile"])
def test_long_download_at_a_limited_rate_is_whole(
    config: str, path: str, address: str, tmp_path: Path
) -> None:
    block = os.urandom(1_000_000)
    file = tmp_path / "file"
    file.write_bytes(block * (FILE_SIZE // len(block)))
    env = {"FOREIGN_FILE": str(file)}
    with (
        foreign("KeepAlive", config=config, listen=address, env=env) as graced,
        graced.connect(receive_buffer=65536) as client,
    ):
        get(client, path)
        assert head_of(client) == FILE_SIZE
        received, count = hashlib.sha256(), 0
        graced.signal(SIGTERM)
        while count < FILE_SIZE:
            data = client.recv_exactly(min(1 << 19, FILE_SIZE - count))
            received.update(data)
            count += len(data)
            # The rate of a slow line: what is limited is not a wait for an event.
            time.sleep(0.01)
        assert received.digest() == hashlib.sha256(file.read_bytes()).digest()
        assert client.recv() == (b"SHUTDOWN" if config else b"")
        client.close()
        assert graced.wait() == 0


# A farewell by a method.


def test_method_gives_each_client_its_farewell() -> None:
    with foreign("Unavailable") as graced, graced.connect() as one, graced.connect() as two:
        for client in (one, two):
            client.send(b"hello\n")
            assert client.recv() == b"HELLO\n"
        graced.signal(SIGTERM)
        for client in (one, two):
            port = client.sock.getsockname()[1]
            client.expect_farewell_alone(f"421 goodbye {port}\n".encode())
            client.send(b"still there\n")
            assert client.recv() == b"STILL THERE\n"
            client.close()
        assert graced.wait() == 0


def test_method_that_fails_is_one_record_and_end_of_file() -> None:
    with foreign("Hopeless") as graced, graced.connect() as client:
        graced.tracebacks = True
        client.send(b"hello\n")
        assert client.recv() == b"HELLO\n"
        graced.signal(SIGTERM)
        assert client.recv_to_end() == b"221 bye\n"
        client.close()
        assert graced.wait() == 0
        assert graced.log.count("Traceback") == 1


# What handlers make of their socket.


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    key, path = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-nodes", "-subj", "/CN=localhost"),
            *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-keyout", str(key), "-out", str(path)),
        ],
        check=True,
        capture_output=True,
    )
    path.write_bytes(path.read_bytes() + key.read_bytes())
    return path


def encrypted(client: Client) -> Client:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return Client(context.wrap_socket(client.sock))


@pytest.mark.needs("openssl")
@CONFIGS
def test_idle_client_of_tls_hears_last_words(config: str, certificate: Path) -> None:
    env = {"FOREIGN_CERTIFICATE": str(certificate)}
    with foreign("Tolerant", config=config, env=env) as graced:
        with encrypted(graced.connect()) as client:
            client.send(b"hello")
            assert client.recv() == b"HELLO"
            graced.signal(SIGTERM)
            assert client.recv_to_end() == b"bye"
        assert graced.wait() == 0
        assert graced.stopped.seconds < QUICK


@pytest.mark.needs("openssl")
@CONFIGS
def test_end_of_file_that_ends_tls_is_no_failure(config: str, certificate: Path) -> None:
    env = {"FOREIGN_CERTIFICATE": str(certificate)}
    with foreign("Encrypted", config=config, env=env) as graced:
        with encrypted(graced.connect()) as client:
            client.send(b"hello")
            assert client.recv() == b"HELLO"
            graced.signal(SIGTERM)
            assert heard_to_end(client) == b""
        assert graced.wait() == 0
        assert graced.stopped.seconds < QUICK
        graced.log.wait_for("closing connection .*: handler ended")
        assert graced.log.count("failed") == 0


@pytest.mark.needs("openssl")
def test_client_of_tls_that_vanishes_is_no_failure(certificate: Path) -> None:
    env = {"FOREIGN_CERTIFICATE": str(certificate)}
    with foreign("Encrypted", env=env) as graced:
        with encrypted(graced.connect()) as client:
            client.send(b"hello")
            assert client.recv() == b"HELLO"
        graced.log.wait_for("closing connection .*: reset by the client")
        assert graced.log.count("failed") == 0


def heard_to_end(client: Client) -> bytes:
    """The last words to a client of TLS; OpenSSL may answer an end of file with an alert."""
    try:
        return client.recv_to_end()
    except ssl.SSLError:
        return b""


@pytest.mark.needs("openssl")
@CONFIGS
@pytest.mark.parametrize("name", ["Encrypted", "Detached"])
def test_deadline_reaches_what_a_handler_has_made_of_its_socket(
    config: str, name: str, certificate: Path
) -> None:
    env = {"FOREIGN_CERTIFICATE": str(certificate)}
    with foreign(name, "1", config=config, env=env) as graced:
        plain = graced.connect()
        with encrypted(plain) if name == "Encrypted" else plain as client:
            client.send(b"stay")
            graced.log.wait_for("connection from")
            graced.signal(SIGTERM)
            with suppress(ssl.SSLError):
                assert client.recv_to_end() == b""
            assert graced.wait() == 0
        assert 1.0 <= graced.stopped.seconds < 2.0


LIBRARY = """if True:
    import sys, time, socketserver, threading
    from graced import GracefulTCPServer
    from support import foreign

    class Server({bases}GracefulTCPServer):
        grace_period = 1.0

    server = Server(("127.0.0.1", 0), getattr(foreign, sys.argv[1]))
    print(server.server_address[1], flush=True)
    threading.Thread(target=lambda: (sys.stdin.readline(), server.shutdown()), daemon=True).start()
    server.serve_forever()
    print("over", flush=True)
    sys.stdin.readline()
"""


class Library:
    """A program that uses the library, in a process of its own."""

    def __init__(self, name: str, bases: str = "", env: dict[str, str] | None = None) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", LIBRARY.format(bases=bases), name],
            env=environment(env),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )

    def __enter__(self) -> Library:
        assert self._process.stdout
        self._port = self._process.stdout.readline().strip()
        return self

    def __exit__(self, *_failure: object) -> None:
        self._process.kill()
        self._process.communicate()

    def connect(self) -> Client:
        return Client.connect(f"127.0.0.1:{self._port}")

    def shut_down(self) -> None:
        self._tell()

    def _tell(self) -> None:
        assert self._process.stdin
        self._process.stdin.write("\n")

    def wait_until_over(self) -> None:
        """Wait until `serve_forever` has returned; the process lives on."""
        assert self._process.stdout
        assert self._process.stdout.readline() == "over\n"


def test_nothing_of_a_library_is_served_after_its_end(certificate: Path) -> None:
    env = {"FOREIGN_CERTIFICATE": str(certificate)}
    with Library("Encrypted", env=env) as library, encrypted(library.connect()) as client:
        client.send(b"stay")
        library.shut_down()
        library.wait_until_over()
        with suppress(ssl.SSLError):
            assert client.recv_to_end() == b""


@pytest.mark.parametrize("kind", ["at rest", "half a request", "gone"])
def test_clients_of_forked_children_get_the_same_goodbye(kind: str) -> None:
    with Library("Lines", "socketserver.ForkingMixIn, ") as library, library.connect() as client:
        client.send(b"hello\n")
        assert client.recv_exactly(6) == b"HELLO\n"
        if kind == "half a request":
            client.send(b"wor")
        elif kind == "gone":
            client.finish()
            assert client.recv_to_end() == b"221 bye\n"
            client.close()
        library.shut_down()
        if kind == "at rest":
            assert client.recv_to_end() == b"221 bye\n"
        library.wait_until_over()
        if kind == "half a request":
            assert client.recv_to_end() == b""
