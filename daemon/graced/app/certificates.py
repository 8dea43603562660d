"""Certificate and key of TLS listeners: where they are, and the context of them.

A value is the absolute path of a file, or the name of a credential that the service manager passes
(LoadCredential= of systemd.exec(5)): a key that only root can read stays that way.
"""

from __future__ import annotations

import os

from graced.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from ssl import SSLContext

    from graced.app.settings import Settings
    from graced.handlers.registry import Handler
    from graced.sockets.address import Address

DIRECTORY = "CREDENTIALS_DIRECTORY"
"""The variable with the directory of credentials, systemd.exec(5)."""


def check_addresses(addresses: Iterable[Address], certificate: str) -> None:
    """Raise `ValueError` where TLS is wanted at a port and is not, or has no certificate.

    Listeners that a start inherits are told apart by their ports.
    """
    ports: dict[int, Address] = {}
    for address in addresses:
        if address.path:
            continue
        other = ports.setdefault(address.port, address)
        if other.tls != address.tls:
            raise ValueError(
                f"has {other} and {address}: at one port all clients speak TLS, or none"
            )
        if address.tls and not certificate:
            raise ValueError(f"has {address}, but there is no tls.certificate")


def check_handler(settings: Settings, handler: Handler | None) -> None:
    """Raise `ConfigError` for a handler whose clients cannot speak TLS; None: the built-in echo."""
    if handler and not handler.streams and settings.has_tls:
        address = next(each for each in settings.listen if each.tls)
        kind = "an asyncio handler" if handler.asynchronous else "a blocking handler"
        raise ConfigError(
            f"server.listen has {address}, but {settings.handler} is {kind}:"
            " TLS is for the built-in echo and for stream handlers"
        )


def credentials(settings: Settings) -> list[str]:
    """The names of the credentials that the settings ask for."""
    files = settings.certificate, settings.private_key, settings.client_ca
    return [each for each in dict.fromkeys(files) if each and not each.startswith("/")]


def certificate_of(settings: Settings, environ: Mapping[str, str]) -> str:
    """The path of the certificate.  Raises `ConfigError`."""
    return _path("certificate", settings.certificate, environ)


def context_of(settings: Settings, environ: Mapping[str, str]) -> SSLContext:
    """The context of the files.  Raises `ConfigError`, which names the file."""
    try:
        # For a service without TLS, as long as the rest of its start.
        from graced.sockets import tls  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError(f"this Python has no TLS: {error}") from None
    key = settings.private_key or settings.certificate
    return tls.server_context(
        certificate_of(settings, environ),
        _path("private_key", key, environ),
        _path("client_ca", settings.client_ca, environ),
    )


def _path(key: str, value: str, environ: Mapping[str, str]) -> str:
    if not value or value.startswith("/"):
        return value
    directory = environ.get(DIRECTORY)
    if not directory:
        raise ConfigError(
            f"tls.{key} = {value!r} is a credential, and the service manager has passed none"
            f" (LoadCredential={value}:/PATH in the unit)"
        )
    return os.path.join(directory, value)
