"""TLS: the context of a service, and a connection whose bytes travel in records.

Only a service with a TLS listener imports this module, and with it `ssl`.

A `TlsSocket` takes the place of the socket of a client, and never waits.  Four points differ:

- One call reads one record, of at most `RECORD` bytes.  OpenSSL reads nothing ahead, so as long as
  the buffer has room for a record, whatever is unread is in the kernel, where epoll sees it.
- A record of which the kernel has taken a part only is not counted as sent.  The next `send` has
  to begin with the same bytes, as the unsent bytes of a client do.
- A look ahead (MSG_PEEK) sees records, and cannot tell bytes from a goodbye.
- The end is said inside (close_notify) before end of file.  An end of file without it is an error:
  somebody on the way may have cut the connection.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
import time
from contextlib import suppress
from select import EPOLLIN, EPOLLOUT
from threading import Lock

from graced.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

RECORD = 16384
"""Bytes of the largest record, RFC 8446, 5.1."""
CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Of TLS 1.2: keys are never sent, and bytes are authenticated as they are encrypted (AEAD).  The
ciphers of TLS 1.3 are all like that."""
_NO_CLOSE_NOTIFY = "closed by the client without close_notify"
_ENDS = {"UNEXPECTED_EOF_WHILE_READING", "EOF"}
_EXPIRED, _NOT_YET_VALID = 10, 9
"""X509_V_ERR_CERT_HAS_EXPIRED and X509_V_ERR_CERT_NOT_YET_VALID of openssl/x509_vfy.h."""
_SOON = 14
"""Days before the end of a certificate from which on there is a warning."""
_DAY = 86400


class TlsSocket(ssl.SSLSocket):
    """A connection in TLS, for the I/O thread; `step` is for the thread of handshakes."""

    is_tls = True
    _speaks = False
    """Whether the handshake is done and nobody has said the end."""
    _stepping = _closing = False
    _lock = Lock()
    """Of all connections: held for a few instructions."""

    # The handshake.

    def step(self) -> int | Exception:
        """Go on with the handshake as far as bytes are there, and compute.

        Return 0 at its end, EPOLLIN or EPOLLOUT where it has to wait, or the error.
        """
        with self._lock:
            if self._closing:
                return OSError(errno.EBADF, os.strerror(errno.EBADF))
            self._stepping = True
        try:
            self.do_handshake()
        except ssl.SSLWantReadError:
            return EPOLLIN
        except ssl.SSLWantWriteError:
            return EPOLLOUT
        except Exception as error:
            return error
        finally:
            with self._lock:
                self._stepping = False
                closing = self._closing
            if closing:
                super().close()
        self._speaks = True
        return 0

    def getpeername(self) -> Any:
        """The address of the client.  `ssl` asks for it first, and `step` finds a reset as well."""
        try:
            return super().getpeername()
        except OSError:
            if self._sslobj is None:  # type: ignore[attr-defined]
                return ""
            raise

    # Bytes.

    def recv(self, buflen: int = RECORD, flags: int = 0) -> bytes:
        """Read a record.  Raises `BlockingIOError` where none is complete."""
        if flags or not self._speaks:
            return socket.socket.recv(self, buflen, flags)
        try:
            return super().recv(max(buflen, RECORD))
        except OSError as error:
            raise _as_of_tcp(error) from None

    def recv_into(self, buffer: Any, nbytes: int | None = None, flags: int = 0) -> int:
        """Read a record, or what a smaller buffer holds of it; `pending` says how much is left.

        `nbytes` is not looked at: a caller that wants less of a larger buffer would leave a rest.
        """
        if not self._speaks:
            return socket.socket.recv_into(self, buffer)
        try:
            return super().recv_into(buffer)
        except OSError as error:
            raise _as_of_tcp(error) from None

    def send(self, data: Any, flags: int = 0) -> int:
        """Send records until the kernel takes no more, and return the bytes of the whole ones.

        Raises `BlockingIOError` where there is none.
        """
        if not self._speaks:
            # `ssl` would send the bytes as they are.
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
        sent, view = 0, memoryview(data)
        try:
            while sent < len(view):
                sent += super().send(view[sent : sent + RECORD])
        except OSError as error:
            if sent and isinstance(error, ssl.SSLWantWriteError):
                return sent
            raise _as_of_tcp(error) from None
        return sent

    # The end.

    def shutdown(self, how: int) -> None:
        """End the connection in one direction or both; the output with a close_notify."""
        if how != socket.SHUT_RD:
            self._say_end()
        socket.socket.shutdown(self, how)

    def close(self) -> None:
        """Say the end and close; after the step of a handshake that is being made."""
        with self._lock:
            self._closing = True
            if self._stepping:
                # Another client could get the descriptor, and the rest of this handshake.
                return
        self._say_end()
        super().close()

    def _say_end(self) -> None:
        if self._speaks:
            # From now on what comes is discarded, encrypted as it is.
            self._speaks = False
            with suppress(OSError, ValueError):
                # In vain where the client has gone, or has not taken the last record.
                self.unwrap()


def _as_of_tcp(error: OSError) -> OSError:
    """The error that a socket without TLS raises."""
    if isinstance(error, ssl.SSLWantReadError | ssl.SSLWantWriteError):
        return BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    if is_end(error):
        return OSError(errno.EPROTO, _NO_CLOSE_NOTIFY)
    return OSError(errno.EPROTO, why(error)) if isinstance(error, ssl.SSLError) else error


def is_end(error: Exception) -> bool:
    """Whether the client has ended the connection without a word."""
    # Python 3.11.2 of Debian 12 has no class of its own for the error of a read.
    return isinstance(error, ssl.SSLEOFError) or getattr(error, "reason", None) in _ENDS


def why(error: Exception) -> str:
    """The words of an error of TLS, for the log."""
    reason = getattr(error, "reason", None)
    if reason:
        return f"TLS: {str(reason).lower().replace('_', ' ')}"
    return getattr(error, "strerror", None) or str(error)


# The context.


def server_context(certificate: str, private_key: str, client_ca: str = "") -> ssl.SSLContext:
    """The context of the files: the certificate with its chain, its key, and who signs for clients.

    Raises `ConfigError`, which names the file.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    # Python 3.11.2 of Debian 12 takes a connection that was cut for one that has ended.
    context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
    context.sslsocket_class = TlsSocket
    for path in dict.fromkeys((certificate, private_key, client_ca)):
        if path:
            _check_readable(path)
    try:
        context.load_cert_chain(certificate, private_key, password=_no_password)
    except _EncryptedError:
        raise ConfigError(f"{private_key}: a key with a password is of no use here") from None
    except (OSError, ValueError) as error:
        raise ConfigError(_about_pair(certificate, private_key, error)) from None
    if client_ca:
        try:
            context.load_verify_locations(client_ca)
        except (OSError, ValueError) as error:
            raise ConfigError(f"{client_ca}: no certificates in PEM: {why(error)}") from None
        context.verify_mode = ssl.CERT_REQUIRED
    return context


class _EncryptedError(Exception):
    """OpenSSL has asked for a password."""


def _no_password() -> str:
    # Without this OpenSSL would ask on the terminal.
    raise _EncryptedError


def _check_readable(path: str) -> None:
    try:
        with open(path, "rb") as file:
            file.read(1)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None


def _about_pair(certificate: str, private_key: str, error: Exception) -> str:
    reason = getattr(error, "reason", None)
    if reason == "KEY_VALUES_MISMATCH":
        return f"{private_key}: it is not the key of the certificate in {certificate}"
    if reason in {None, "NO_START_LINE"}:
        return f"{certificate}, {private_key}: no certificate or no key in PEM"
    return f"{certificate}, {private_key}: {why(error)}"


def doubt(context: ssl.SSLContext, certificate: str) -> str:
    """What clients may object to in a certificate; empty: nothing.

    A handshake with ourselves shows it, which takes as long as one with a client.
    """
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    # Nobody has to sign for the certificate: its dates are judged, and no more.
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    try:
        client.load_verify_locations(certificate)
        ours = client.wrap_bio(to_client, to_server)
        theirs = context.wrap_bio(to_server, to_client, server_side=True)
        for side in (ours, theirs, ours):
            with suppress(ssl.SSLWantReadError):
                side.do_handshake()
        found = ours.getpeercert() or {}
    except ssl.SSLCertVerificationError as error:
        return {
            _EXPIRED: "it has expired",
            _NOT_YET_VALID: "it is not valid yet, by the clock of this device",
        }.get(error.verify_code, "")
    except OSError as error:
        return why(error)
    return _about_end(str(found.get("notAfter", "")))


def _about_end(end: str) -> str:
    days = int((ssl.cert_time_to_seconds(end) - time.time()) // _DAY) if end else _SOON + 1
    return f"it expires in {days} day{'s' * (days != 1)}" if days <= _SOON else ""
