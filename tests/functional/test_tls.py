"""Clients in TLS: echo, stream handlers, a stop, a restart, and clients that break the rules."""

from __future__ import annotations

import os
import re
import socket
import ssl
import subprocess
from pathlib import Path
from signal import SIGTERM, SIGUSR2
from typing import Any

import pytest

from support import (
    FAREWELL,
    PASS,
    PATIENCE,
    Client,
    FdStore,
    Graced,
    reserved_port,
    run_graced,
    settled,
)
from support.proxy import v2
from support.tls import (
    CERTIFICATE,
    CONFIG,
    LISTEN,
    TlsClient,
    client_context,
    make_certificate,
    place,
)

pytestmark = pytest.mark.needs("openssl")

HANDLERS = {"echo": "echo", "stream": "support.streams:TellingEcho"}
handlers = pytest.mark.parametrize("kind", HANDLERS.values(), ids=list(HANDLERS))
versions = pytest.mark.parametrize(
    "version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"]
)
RECORD = 16384
LARGE = bytes(range(256)) * 4096


def tls(*options: str, config: str = "", listen: Any = LISTEN, **more: Any) -> Graced:
    """A graced with a TLS listener."""
    return Graced(*options, config=CONFIG + config, listen=listen, **more)


def connect(graced: Graced, **options: Any) -> TlsClient:
    """A client of the last listener, whose handshake is done."""
    return TlsClient(graced.addresses[-1], client_context(**options))


def raw(graced: Graced) -> Client:
    """A client of the last listener that speaks what it likes."""
    return Client(socket.create_connection(place(graced.addresses[-1])))


def expect_end_in_tls(client: Client) -> None:
    """An end of file without close_notify would be an error."""
    assert client.recv() == b""


@handlers
@versions
def test_bytes_come_back(kind: str, version: ssl.TLSVersion) -> None:
    with tls("--handler", kind) as graced, connect(graced, maximum_version=version) as client:
        assert client.sock.version() == version.name.replace("_", ".")
        for length in (1, RECORD - 1, RECORD, RECORD + 1, 3 * RECORD + 7):
            client.echo(LARGE[:length])
        for _ in range(50):
            client.echo(b"hello")


@handlers
def test_told_alone_and_served_until_it_goes(kind: str) -> None:
    with tls("--handler", kind, "--grace", "60") as graced:
        with connect(graced) as idle, connect(graced) as busy:
            for client in (idle, busy):
                client.echo(b"hello")
            graced.signal(SIGTERM)
            for client in (idle, busy):
                client.expect_farewell_alone()
            busy.echo(b"still served")
            busy.echo(LARGE[: 2 * RECORD])
            idle.close()
            graced.log.wait_for("closing connection from .*: closed by the client")
        assert graced.wait() == 0
        assert graced.stopped[1:] == (2, 0)


@handlers
def test_deadline_holds_and_says_close_notify(kind: str) -> None:
    with tls("--handler", kind, "--grace", "0.3") as graced, connect(graced) as client:
        client.echo(b"hello")
        graced.signal(SIGTERM)
        client.expect_farewell_alone()
        expect_end_in_tls(client)
        assert graced.wait() == 0
        assert graced.stopped[1:] == (0, 1)


@handlers
def test_no_grace_tells_all_the_same(kind: str) -> None:
    with tls("--handler", kind, "--grace", "0") as graced, connect(graced) as client:
        client.echo(b"hello")
        graced.signal(SIGTERM)
        assert client.recv_to_end() == FAREWELL
        assert graced.wait() == 0


def test_end_of_input_where_no_farewell_is_declared() -> None:
    with tls("--handler", "support.streams:Echo", "--grace", "60") as graced:
        with connect(graced) as client:
            client.echo(b"hello")
            graced.signal(SIGTERM)
            expect_end_in_tls(client)
        assert graced.wait() == 0
        assert graced.stopped[1:] == (1, 0)


def test_bytes_that_came_before_the_drain_are_echoed_before_the_farewell() -> None:
    with tls("--grace", "60") as graced, connect(graced) as client:
        client.echo(b"hello")
        sent = client.send_until_full()
        graced.signal(SIGTERM)
        graced.log.wait_for("telling 1 client")
        # What was in the queue of the client's kernel comes after the farewell.
        received = client.recv_exactly(sent + len(FAREWELL))
        before, farewell, after = received.partition(FAREWELL)
        assert len(before) % RECORD == 0
        assert before + after == b"x" * sent
        assert farewell


def test_client_that_never_reads_holds_up_nobody() -> None:
    config = "[limits]\nstall_timeout = 0.5\n"
    with tls(config=config) as graced, connect(graced) as greedy, connect(graced) as other:
        assert greedy.send_until_full()
        other.echo(b"hello")
        graced.log.wait_for("closing connection from .*: stalled")
        other.echo(b"still there")


def test_half_handshake_holds_up_nobody_and_is_closed_at_the_deadline() -> None:
    with tls("--grace", "0.5") as graced, raw(graced) as silent, raw(graced) as half:
        half.send(b"\x16\x03\x01\x02\x00\x01\x00")
        with connect(graced) as client:
            client.echo(b"hello")
        graced.log.wait_for("closing connection")
        graced.signal(SIGTERM)
        assert silent.recv_to_end() == b""
        assert half.recv_to_end() == b""
        assert graced.wait() == 0
        assert graced.stopped[2] == 2


@handlers
def test_handshake_that_is_done_in_the_drain_is_told_then(kind: str) -> None:
    with tls("--handler", kind, "--grace", "60") as graced:
        with TlsClient(graced.addresses[0], shake=False) as client:
            graced.log.wait_for(f"<6>connection from 127.0.0.1:{client.port}")
            graced.signal(SIGTERM)
            graced.log.wait_for("telling 1 client")
            client.shake()
            client.expect_farewell_alone()
            client.echo(b"served")
        assert graced.wait() == 0
        assert graced.stopped[1:] == (1, 0)


@handlers
def test_turn_of_a_client_in_its_handshake_comes_once(kind: str) -> None:
    config = "[shutdown]\nfarewell_spread = 0.3\n"
    with (
        tls("--handler", kind, "--grace", "1", config=config) as graced,
        TlsClient(graced.addresses[0], shake=False) as client,
    ):
        graced.log.wait_for(f"<6>connection from 127.0.0.1:{client.port}")
        graced.signal(SIGTERM)
        graced.log.wait_for("telling 1 client")
        client.shake()
        assert client.recv_to_end() == FAREWELL
        assert graced.wait() == 0


def test_new_client_in_the_drain_finds_end_of_file() -> None:
    with tls("--grace", "60") as graced, connect(graced) as client:
        client.echo(b"hello")
        graced.signal(SIGTERM)
        client.expect_farewell_alone()
        with raw(graced) as late:
            assert late.recv_to_end() == b""


def test_client_beyond_a_limit_finds_end_of_file() -> None:
    with tls(config="[limits]\nmax_clients = 1\n") as graced, raw(graced) as silent:
        graced.log.wait_for(f"<6>connection from {re.escape(silent.name)}")
        with raw(graced) as refused:
            assert refused.recv_to_end() == b""
        graced.log.wait_for("max_clients = 1 reached")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"GET / HTTP/1.1\r\nHost: here\r\n\r\n", "http request"),
        (b"hello, are you an echo?\r\n", "wrong version number"),
        (b"\x16\x03\x01\x00\x02\x01\x00", "."),
    ],
    ids=["http", "text", "record"],
)
def test_plain_bytes_are_refused_in_one_record(data: bytes, reason: str) -> None:
    with tls("--grace", "0") as graced, raw(graced) as client:
        client.send(data)
        client.finish()
        assert FAREWELL not in client.recv_to_end()
        graced.log.wait_for(f"closing connection from {re.escape(client.name)}: (TLS: )?{reason}")
        assert graced.stop() == 0


def test_connection_without_a_byte_is_a_probe() -> None:
    with tls(config="[log]\nprobes = false\n") as graced:
        with raw(graced):
            pass
        with raw(graced) as client:
            client.send(b"no handshake\r\n")
            client.recv_to_end()
            graced.log.wait_for(f"closing connection from {re.escape(client.name)}: TLS: ")
        assert graced.log.count("<6>connection from") == 1


@handlers
def test_end_of_file_without_close_notify(kind: str) -> None:
    with tls("--handler", kind) as graced, connect(graced) as client:
        client.echo(b"hello")
        with socket.socket(fileno=os.dup(client.sock.fileno())) as under:
            under.shutdown(socket.SHUT_WR)
            graced.log.wait_for(
                "closing connection from .*: closed by the client without close_not"
            )


@handlers
def test_close_notify_is_answered(kind: str) -> None:
    with tls("--handler", kind) as graced, connect(graced) as client:
        client.echo(LARGE[:RECORD])
        # Waits for the close_notify of the server.
        client.sock.unwrap()
        graced.log.wait_for("closing connection from .*: closed by the client,")


def test_damaged_record_ends_its_connection_only() -> None:
    with tls() as graced, connect(graced) as client, connect(graced) as other:
        client.echo(b"hello")
        with socket.socket(fileno=os.dup(client.sock.fileno())) as under:
            under.send(b"\x17\x03\x03\x00\x20" + bytes(32))
        graced.log.wait_for("closing connection from .*: TLS: ")
        other.echo(b"hello")


def test_plain_listener_beside_it() -> None:
    with (
        reserved_port() as port,
        tls(listen=["127.0.0.1:0", f"tls:127.0.0.1:{port}"]) as graced,
        graced.connect() as plain,
        connect(graced) as client,
    ):
        plain.echo(b"hello")
        client.echo(b"hello")


def test_handler_with_a_small_buffer_gets_all_of_a_record() -> None:
    with tls("--handler", "support.streams:BufferedEcho") as graced, connect(graced) as client:
        for length in (1, 4095, 4096, 4097, RECORD):
            client.echo(LARGE[:length])


def test_client_needs_a_certificate_where_an_authority_is_named(tmp_path: Path) -> None:
    foreign = make_certificate(tmp_path, "foreign", end="21260101000000Z")
    with tls(
        "--handler", "support.streams:WhoIsThere", config=f"client_ca = '{CERTIFICATE}'\n"
    ) as graced:
        ours = client_context()
        ours.load_cert_chain(CERTIFICATE)
        with TlsClient(graced.addresses[0], ours) as client:
            client.send(b"?")
            assert client.recv() == b"localhost TLSv1.3"
        theirs = client_context()
        theirs.load_cert_chain(foreign)
        for context in (client_context(), theirs):
            # In TLS 1.3 the server judges after the handshake of the client.
            with (
                TlsClient(graced.addresses[0], context) as client,
                pytest.raises(ssl.SSLError, match="alert"),
            ):
                client.recv()
        graced.log.wait_for("TLS: peer did not return a certificate")
        graced.log.wait_for("TLS: certificate verify failed")


def test_proxy_header_comes_before_the_handshake() -> None:
    with tls(config="[server]\nproxy_protocol = '127.0.0.1'\n") as graced:
        sock = socket.create_connection(place(graced.addresses[0]), timeout=PATIENCE)
        sock.sendall(v2("192.0.2.7", 50000))
        with Client(client_context().wrap_socket(sock, server_hostname="localhost")) as client:
            client.echo(b"hello")
            graced.log.wait_for("connection from 192.0.2.7:50000$")
        with raw(graced) as client:
            client.send(b"no header")
            assert client.recv_to_end() == b""


# A restart.


def start(store: FdStore) -> dict[str, Any]:
    """What the service manager gives the next process of the service."""
    return {"env": store.environment, "before": PASS, "pass_fds": store.descriptors}


@handlers
def test_restart_tells_clients_in_tls_and_keeps_the_others(store: FdStore, kind: str) -> None:
    kind = kind.replace("TellingEcho", "MovableEcho")
    with reserved_port() as port:
        listen = ["127.0.0.1:0", f"tls:127.0.0.1:{port}"]
        first = tls("--handler", kind, "--grace", "60", listen=listen, **start(store))
        with first:
            listen[0] = first.addresses[0]
            with first.connect() as plain:
                plain.echo(b"hello")
                with connect(first) as client:
                    client.echo(b"hello")
                    first.signal(SIGUSR2)
                    client.expect_farewell_alone()
                    client.echo(b"has its time")
                assert first.wait() == 79
                second = tls("--handler", kind, listen=listen, **start(store))
                with second:
                    plain.echo(b"still here")
                    with connect(second) as client:
                        client.echo(b"again")


def test_mirror_has_no_clients_in_tls(store: FdStore) -> None:
    config = "[continuity]\nkeep = 'always'\n"
    with reserved_port() as port:
        listen = ["127.0.0.1:0", f"tls:127.0.0.1:{port}"]
        with tls(config=config, listen=listen, **start(store)) as first:
            listen[0] = first.addresses[0]
            plain, client = first.connect(), connect(first)
            plain.echo(b"hello")
            client.echo(b"hello")
            first.process.kill()
            first.process.wait()
        with plain, client, tls(config=config, listen=listen, **start(store)) as second:
            plain.echo(b"still here")
            with pytest.raises(ssl.SSLError, match="EOF"):
                client.recv()
            assert second.stop() == 0


def test_socket_of_the_service_manager_has_tls_at_the_port_of_the_configuration() -> None:
    with socket.create_server(("127.0.0.1", 0)) as ours, socket.create_server(("", 0)) as plain:
        port, passed = ours.getsockname()[1], [ours.fileno(), plain.fileno()]
        env = {"LISTEN_FDS": "2", "PASSED": " ".join(map(str, passed))}
        listen = f"tls:localhost:{port}"
        with tls(listen=listen, env=env, before=PASS, pass_fds=passed) as graced:
            assert graced.addresses[0] == f"tls:127.0.0.1:{port}"
            with (
                TlsClient(graced.addresses[0]) as client,
                Client.connect(f"127.0.0.1:{plain.getsockname()[1]}") as other,
            ):
                client.echo(b"hello")
                other.echo(b"hello")


# Other programs.


@pytest.mark.needs("curl")
def test_curl_gets_an_answer() -> None:
    with tls("--handler", "support.http:Http") as graced:
        _, port = place(graced.addresses[0])
        found = subprocess.run(
            ["curl", "-sS", "--cacert", str(CERTIFICATE), f"https://localhost:{port}/there"],
            capture_output=True,
            timeout=PATIENCE,
            check=False,
        )
        assert found.stdout == b"GET /there ", found.stderr


def s_client(graced: Graced, *options: str) -> subprocess.Popen[bytes]:
    host, port = place(graced.addresses[0])
    return subprocess.Popen(
        [
            "openssl",
            "s_client",
            "-connect",
            f"{host}:{port}",
            "-CAfile",
            str(CERTIFICATE),
            *options,
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


@versions
def test_openssl_hears_echo_and_farewell(version: ssl.TLSVersion) -> None:
    option = f"-{version.name[:3].lower()}{version.name[4:]}"
    with (
        tls("--grace", "0.5") as graced,
        s_client(graced, "-quiet", "-verify_return_error", option) as client,
    ):
        assert client.stdin
        assert client.stdout
        client.stdin.write(b"hello\n")
        client.stdin.flush()
        lines = iter(client.stdout.readline, b"")
        assert any(line == b"hello\n" for line in lines)
        graced.signal(SIGTERM)
        assert client.stdout.read().endswith(FAREWELL)
        assert graced.wait() == 0


@pytest.mark.parametrize("version", ["-tls1", "-tls1_1"])
def test_openssl_is_refused_an_old_version(version: str) -> None:
    with tls() as graced:
        client = s_client(graced, version, "-cipher", "ALL:@SECLEVEL=0")
        said, _ = client.communicate(b"", PATIENCE)
        assert client.returncode
        assert b"alert protocol version" in said
        graced.log.wait_for("closing connection from .*: TLS: unsupported protocol")


def test_renegotiation_is_refused() -> None:
    with tls() as graced, connect(graced) as other:
        with s_client(graced, "-tls1_2") as client:
            # A line of R alone renegotiates.
            said, _ = client.communicate(b"R\n", PATIENCE)
            assert b"RENEGOTIATING" in said
            assert b"no renegotiation" in said
        other.echo(b"hello")


# Configuration.


def refused(config: str, *options: str, **more: Any) -> str:
    """The one line with which a start, and a check, are refused."""
    path = more.pop("path")
    path.write_text(config)
    found = run_graced("--config", str(path), *options, **more)
    assert found.returncode == 78
    again = run_graced("--config", str(path), "--check-config", *options, **more)
    assert (again.returncode, again.stderr) == (78, found.stderr)
    (line,) = found.stderr.splitlines()
    return line


def test_configuration_that_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "graced.toml"

    def line(config: str, *options: str) -> str:
        return refused(config, *options, path=path)

    assert "has tls:127.0.0.1:0, but there is no tls.certificate" in line("", "-l", LISTEN)
    both = line(CONFIG, "-l", "127.0.0.1:7", "-l", "tls:127.0.0.2:7")
    assert "server.listen has 127.0.0.1:7 and tls:127.0.0.2:7: at one port all" in both
    for kind, words in {
        "support.asynchronous:Polite": "an asyncio handler",
        "echo-threaded": "a blocking handler",
    }.items():
        assert f"{kind} is {words}: TLS is for" in line(CONFIG, "-l", LISTEN, "--handler", kind)
    assert "absent.pem: No such file" in line(
        f"[tls]\ncertificate = '{tmp_path}/absent.pem'", "-l", LISTEN
    )
    assert "'cert' is a credential, and the service manager has passed none" in refused_start(
        "[tls]\ncertificate = 'cert'", path
    )
    relative = line("[tls]\ncertificate = 'etc/cert'", "-l", LISTEN)
    assert "tls.certificate must be an absolute path, or the name of a credential" in relative


def refused_start(config: str, path: Path) -> str:
    path.write_text(config)
    found = run_graced("--config", str(path), "-l", LISTEN)
    assert found.returncode == 78
    return found.stderr


def test_credentials(tmp_path: Path) -> None:
    (tmp_path / "cert").write_bytes(CERTIFICATE.read_bytes())
    config = "[tls]\ncertificate = 'cert'\n"
    env = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    with Graced(config=config, listen=LISTEN, env=env) as graced, connect(graced) as client:
        client.echo(b"hello")
    (tmp_path / "graced.toml").write_text(config)
    checked = run_graced("--config", f"{tmp_path}/graced.toml", "-l", LISTEN, "--check-config")
    assert checked.returncode == 0
    assert "not checked: the credentials cert: only the service has them" in checked.stdout


def test_certificate_that_has_expired_is_a_warning(tmp_path: Path) -> None:
    old = make_certificate(tmp_path, "old", end="20200201000000Z")
    config = tmp_path / "graced.toml"
    config.write_text(f"[tls]\ncertificate = '{old}'\n")
    checked = run_graced("--config", str(config), "-l", LISTEN, "--check-config")
    assert checked.returncode == 0
    assert f"graced: warning: {old}: it has expired" in checked.stdout
    with Graced(config=config.read_text(), listen=LISTEN) as graced:
        graced.log.wait_for("<4>clients may object to the certificate .*: it has expired")
        trusting = client_context(check_hostname=False, verify_mode=ssl.CERT_NONE)
        with TlsClient(graced.addresses[0], trusting) as client:
            client.echo(b"hello")


def loaded(pid: int) -> bool:
    """Whether a process has OpenSSL's code for TLS."""
    return "libssl" in Path(f"/proc/{pid}/maps").read_text()


def test_without_tls_nothing_of_it_is_loaded() -> None:
    with Graced(config=CONFIG) as graced:
        with graced.connect() as client:
            client.echo(b"hello")
        assert not loaded(graced.pid)
    with tls() as graced:
        assert loaded(graced.pid)


def test_idle_client_costs_no_processor() -> None:
    with tls() as graced, connect(graced) as client, raw(graced):
        client.echo(b"hello")
        assert settled(graced.pid)
