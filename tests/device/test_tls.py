"""TLS on a device: a key that only root can read, in the sandbox of the unit as it is shipped."""

from __future__ import annotations

from collections.abc import Iterator
from ssl import SSLSocket

import pytest

from device.service import FAREWELL, Service
from device.test_hardening import AS_SHIPPED, exposure
from support.tls import CERTIFICATE, client_context

PORT = 7000
KEY = "/etc/ssl/private/graced-test.pem"


@pytest.fixture
def secured(graced: Service) -> Iterator[Service]:
    """The service with a TLS listener, and its key as a credential."""
    device = graced.device
    device.write(KEY, CERTIFICATE.read_text())
    device.run("chmod", "600", KEY)
    graced.drop_in(f"[Service]\nLoadCredential=tls.pem:{KEY}\n")
    graced.configure(
        f"[server]\nlisten = ['localhost:9999', 'tls:localhost:{PORT}']\n"
        "[tls]\ncertificate = 'tls.pem'\n"
    )
    graced.restart()
    yield graced
    device.remove(KEY)


def connect(service: Service) -> SSLSocket:
    (sock,) = service.knock(port=PORT)
    return client_context().wrap_socket(
        sock, server_hostname="localhost", suppress_ragged_eofs=False
    )


def echoes(client: SSLSocket) -> bool:
    client.sendall(b"hello")
    return client.recv(64) == b"hello"


def test_key_that_only_root_can_read_is_a_credential(secured: Service) -> None:
    with connect(secured) as client:
        assert echoes(client)
    assert exposure(secured) <= AS_SHIPPED
    checked = secured.device.run("graced", "--check-config").stdout
    assert "not checked: the credentials tls.pem: only the service has them" in checked


def test_client_in_tls_is_told_at_a_restart_and_the_next_start_serves(secured: Service) -> None:
    (plain,) = secured.connect()
    with connect(secured) as client:
        assert echoes(client)
        secured.device.systemctl("restart", "--no-block", "graced.service")
        assert client.recv(64) == FAREWELL
        assert client.unwrap()
    plain.sendall(b"still here")
    assert plain.recv(64) == b"still here"
    with connect(secured) as client:
        assert echoes(client)


def test_file_that_the_service_cannot_read_is_refused_by_the_check(secured: Service) -> None:
    secured.configure(f"[server]\nlisten = 'tls:localhost:{PORT}'\n[tls]\ncertificate = '{KEY}'\n")
    checked = secured.device.run("graced", "--check-config", check=False)
    assert checked.returncode == 78
    assert f"{KEY}: Permission denied" in checked.stderr


def test_end_of_a_stop_is_said_in_tls(secured: Service) -> None:
    with connect(secured) as client:
        assert echoes(client)
        secured.device.systemctl("stop", "--no-block", "graced.service")
        assert client.recv(64) == FAREWELL
        assert client.recv(64) == b""
