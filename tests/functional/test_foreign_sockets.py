"""Handlers that wrap their socket in TLS, detach it, or fork."""

from __future__ import annotations

import ssl
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from signal import SIGTERM
from time import monotonic

import pytest

from functional.foreign import CONFIGS, QUICK, foreign
from strangers.gate import VARIABLE, Gate
from support import Client, environment, odd
from support.control import environment_in, gracectl
from support.process import LEFT_TO_THE_KERNEL


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
def test_deadline_reaches_derived_sockets_of_handler(
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
        assert 1.0 <= graced.stopped.seconds < 5


LIBRARY = """if True:
    import sys, time, socketserver, threading
    from graced import GracefulTCPServer
    from support import foreign, odd

    class OwnThreads:
        def process_request(self, *request):
            threading.Thread(target=self.process_request_thread, args=request, daemon=True).start()

    class Server({bases}GracefulTCPServer):
        grace_period = 1.0

    server = Server(("127.0.0.1", 0), getattr({module}, sys.argv[1]))
    print(server.server_address[1], flush=True)
    threading.Thread(target=lambda: (sys.stdin.readline(), server.shutdown()), daemon=True).start()
    server.serve_forever()
    print("over", flush=True)
    sys.stdin.readline()
"""


class Library:
    """A program that uses the library, in a process of its own."""

    def __init__(
        self,
        name: str,
        bases: str = "",
        env: dict[str, str] | None = None,
        module: str = "foreign",
    ) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", LIBRARY.format(bases=bases, module=module), name],
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


def test_library_serves_no_client_after_end(certificate: Path) -> None:
    env = {"FOREIGN_CERTIFICATE": str(certificate)}
    with Library("Encrypted", env=env) as library, encrypted(library.connect()) as client:
        client.send(b"stay")
        library.shut_down()
        library.wait_until_over()
        with suppress(ssl.SSLError):
            assert client.recv_to_end() == b""


@pytest.mark.parametrize("kind", ["at rest", "half a request", "gone"])
def test_clients_of_forked_children_get_same_goodbye(kind: str) -> None:
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


FORKING = "socketserver.ForkingMixIn, "
AT_THE_DEADLINE = [*((name, "") for name in odd.ALL), ("Plain", FORKING), ("Detached", FORKING)]


@pytest.mark.parametrize(("name", "bases"), AT_THE_DEADLINE)
def test_library_ends_at_the_deadline_whatever_a_handler_has_made_of_its_request(
    name: str, bases: str, tmp_path: Path
) -> None:
    env = {VARIABLE: str(tmp_path / "gate")}
    with (
        Gate(tmp_path / "gate") as gate,
        Library(name, bases, env, "odd") as library,
        library.connect() as client,
    ):
        client.send(b"hello\n")
        assert client.recv_exactly(6) == b"HELLO\n"
        client.send(b"stay\n")
        began = monotonic()
        library.shut_down()
        # Declared: none.  A byte of anybody else would be wrong.
        assert client.recv_to_end() == b""
        assert monotonic() - began >= 1.0
        library.wait_until_over()
        # A child that does not look at its connection would live on.
        gate.open()
        assert monotonic() - began < 1.0 + QUICK


def test_child_of_a_handler_that_has_returned_goes_on_in_the_library(tmp_path: Path) -> None:
    """The handler closes its request and returns, which ends nothing for the child."""
    env = {VARIABLE: str(tmp_path / "gate")}
    with (
        Gate(tmp_path / "gate") as gate,
        Library("LeftToChild", "", env, "odd") as library,
        library.connect() as client,
    ):
        client.send(b"slow\n")
        assert client.recv_exactly(5) == b"one, "
        library.shut_down()
        gate.open()
        assert client.recv_to_end() == b"two\nbye\n"
        library.wait_until_over()


@pytest.mark.parametrize("bases", ["", "OwnThreads, "])
def test_upload_that_waits_for_leave_is_answered_by_the_library(bases: str) -> None:
    with Library("KeepAlive", bases) as library, library.connect() as client:
        client.send(b"POST / HTTP/1.1\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n")
        assert client.recv() == b"HTTP/1.1 100 Continue\r\n\r\n"
        with library.connect() as idle:
            library.shut_down()
            assert idle.recv_to_end() == b""
        with suppress(TimeoutError):
            client.sock.settimeout(0.3)
            raise AssertionError(client.recv())
        client.sock.settimeout(60)
        client.send(b"word")
        assert client.recv_to_end().endswith(b"\r\n\r\nword")


@pytest.mark.needs("openssl")
@pytest.mark.parametrize("name", ["Encrypted", "Detached"])
@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("close", "closed by an operator"),
        ("tell", "told by an operator, closed after its grace period"),
    ],
)
def test_operator_reaches_derived_sockets_of_handler(
    name: str, command: str, reason: str, certificate: Path, tmp_path: Path
) -> None:
    """Which words there would be right nobody knows: the client hears of the end alone."""
    runtime = tmp_path / "run"
    runtime.mkdir()
    env = {
        "FOREIGN_CERTIFICATE": str(certificate),
        **environment_in(runtime),
        **LEFT_TO_THE_KERNEL,
    }
    with foreign(name, "1", env=env) as graced:
        plain = graced.connect()
        address = plain.name
        with encrypted(plain) if name == "Encrypted" else plain as client:
            client.send(b"hello")
            assert client.recv().lower() == b"hello"
            done = gracectl(command, address, directory=runtime)
            assert (done.returncode, done.stderr) == (0, "")
            assert heard_to_end(client) in {b"", b"bye"}
        graced.log.wait_for(rf"closing connection from {address}: {reason}")
        assert graced.log.count("failed") == 0
