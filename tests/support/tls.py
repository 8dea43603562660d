"""TLS with the certificate of tests/support/localhost.pem, which is good for localhost."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path
from typing import Any

from support.client import Client

CERTIFICATE = Path(__file__).with_name("localhost.pem")


def server_context() -> ssl.SSLContext:
    """For a server with the certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    return context


def connect_tls(address: Any) -> Client:
    """A client that has finished its handshake."""
    context = ssl.create_default_context(cafile=str(CERTIFICATE))
    sock = socket.create_connection(address)
    return Client(context.wrap_socket(sock, server_hostname="localhost"))
