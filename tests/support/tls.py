"""TLS with the certificate of tests/support/localhost.pem, which is good for localhost."""

from __future__ import annotations

import select
import socket
import ssl
import subprocess
from pathlib import Path
from typing import Any, Self

from support.client import MOMENT, Client
from support.log import PATIENCE

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


LISTEN = "tls:127.0.0.1:0"
CONFIG = f"[tls]\ncertificate = '{CERTIFICATE}'\n"
"""Of a graced that listens there."""


def place(address: str) -> tuple[str, int]:
    """Where a TLS listener is that the log names so."""
    assert address.startswith("tls:")
    host, _, port = address.removeprefix("tls:").rpartition(":")
    return host.strip("[]"), int(port)


def client_context(**options: Any) -> ssl.SSLContext:
    """Of a client that trusts the certificate, for which an end without close_notify is an error.

    `options`: attributes of the context.
    """
    context = ssl.create_default_context(cafile=str(CERTIFICATE))
    context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
    for name, value in options.items():
        setattr(context, name, value)
    return context


class TlsClient(Client):
    """A client of a TLS listener."""

    sock: ssl.SSLSocket

    def __enter__(self) -> Self:
        return self

    def __init__(
        self, address: str, context: ssl.SSLContext | None = None, *, shake: bool = True
    ) -> None:
        raw = socket.create_connection(place(address), timeout=PATIENCE)
        self.port = raw.getsockname()[1]
        try:
            super().__init__(
                (context or client_context()).wrap_socket(
                    raw,
                    server_hostname="localhost",
                    suppress_ragged_eofs=False,
                    do_handshake_on_connect=shake,
                )
            )
        except BaseException:
            raw.close()
            raise

    def shake(self) -> None:
        """Do the handshake."""
        self.sock.do_handshake()

    def send_until_full(self) -> int:
        """The same with records; one that is there in part only is not counted."""
        poll = select.poll()
        poll.register(self.sock, select.POLLOUT)
        self.sock.settimeout(0)
        sent = 0
        while poll.poll(MOMENT * 1000):
            try:
                sent += self.sock.send(b"x" * 16384)
            except ssl.SSLWantWriteError:
                continue
        self.sock.settimeout(PATIENCE)
        return sent


def openssl(*arguments: str, within: str | Path = ".") -> None:
    """Run the command that has its name, and fail if it does."""
    subprocess.run(["openssl", *arguments], cwd=within, check=True, capture_output=True)


_CA = """
[ca]
default_ca = it
[it]
database = ./index
new_certs_dir = .
rand_serial = yes
default_md = sha256
policy = any
[any]
commonName = supplied
"""


def make_certificate(
    directory: Path, name: str, *, begin: str = "20200101000000Z", end: str, kind: str = "ec"
) -> Path:
    """A file with a key and a certificate of its own, for localhost, with these dates."""
    key = ["ec", "-pkeyopt", "ec_paramgen_curve:P-256"] if kind == "ec" else ["rsa:2048"]
    (directory / "ca.cnf").write_text(_CA)
    (directory / "index").write_text("")
    openssl(
        *("req", "-new", "-newkey", *key, "-nodes", "-subj", "/CN=localhost"),
        *("-keyout", f"{name}.key", "-out", f"{name}.csr"),
        within=directory,
    )
    openssl(
        *("ca", "-batch", "-selfsign", "-config", "ca.cnf", "-keyfile", f"{name}.key"),
        *("-in", f"{name}.csr", "-out", f"{name}.crt", "-notext"),
        *("-startdate", begin, "-enddate", end),
        within=directory,
    )
    found = directory / f"{name}.pem"
    found.write_text(
        (directory / f"{name}.key").read_text() + (directory / f"{name}.crt").read_text()
    )
    return found
