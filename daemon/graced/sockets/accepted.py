"""What an accepted TCP socket inherits from its listener: no system call is made per client.

Only clients that were in the queue before the listener was ours have what it was made with.
"""

from __future__ import annotations

import math
import socket
from types import SimpleNamespace

_MILLISECONDS = 1000
_NO_DELAY = (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
_INLINE = (socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
"""Urgent data would otherwise lose its last byte: RFC 6093 wants it in line."""


class KeepAlive(SimpleNamespace):
    """When the kernel takes a silent client for dead, tcp(7).  Durations are in seconds.

    A client whose power is cut says no goodbye.  Without these probes the client would keep its
    place for two hours, and count against `max_clients_per_host` after its next boot.
    """

    idle: float = 120.0
    """Silence before the first probe; 0: no probes."""
    interval: float = 15.0
    """Time between two probes that have no answer."""
    count: int = 4
    """Probes without an answer after which the connection has failed, if `user_timeout` is 0."""
    user_timeout: float = 180.0
    """Time that sent bytes may stay without an acknowledgement; 0: the kernel decides.

    Of a silent client, too, once a probe has no answer.
    """


class BareSocket(socket.socket):
    """A connection of a TLS listener before its handshake."""

    __slots__ = ()

    is_tls = True


def is_tls(sock: socket.socket) -> bool:
    """Whether a connection is in TLS, or will be: its keys are in this process alone."""
    return getattr(sock, "is_tls", False)


def set_up_inherited(sock: socket.socket, keepalive: KeepAlive) -> str:
    """Set the same on a client of the last process, whose configuration or version was another.

    Return the reason why that is impossible; empty: there is none.
    """
    try:
        set_up_again(sock, keepalive)
    except OSError as error:
        return error.strerror or str(error)
    return ""


def set_up_again(sock: socket.socket, keepalive: KeepAlive) -> bool:
    """Set the same where something of it differs; return whether it did.  Raises `OSError`."""
    wanted = [_INLINE, *_options(keepalive)]
    differs = any(sock.getsockopt(level, option) != value for level, option, value in wanted)
    if differs:
        set_up_clients(sock, keepalive)
    return differs


def set_up_clients(sock: socket.socket, keepalive: KeepAlive) -> None:
    """Set on a listening TCP socket what accepted sockets inherit.  Raises `OSError`."""
    for level, option, value in (_NO_DELAY, _INLINE, *_options(keepalive)):
        sock.setsockopt(level, option, value)


def set_up_multipath(sock: socket.socket, keepalive: KeepAlive) -> str:
    """The same for MPTCP, of which a kernel has some options only; return why the rest is not set.

    Empty: all is set.
    """
    reason = ""
    for level, option, value in (_NO_DELAY, _INLINE, *_options(keepalive)):
        try:
            sock.setsockopt(level, option, value)
        except OSError as error:
            reason = error.strerror or str(error)
    return reason


def _options(keepalive: KeepAlive) -> list[tuple[int, int, int]]:
    """Level, option and value of each option that the configuration decides."""
    timeout = math.ceil(keepalive.user_timeout * _MILLISECONDS)
    options = [
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, int(bool(keepalive.idle))),
        (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, timeout),
    ]
    if keepalive.idle:
        options += [
            (socket.IPPROTO_TCP, option, max(1, round(value)))
            for option, value in (
                (socket.TCP_KEEPIDLE, keepalive.idle),
                (socket.TCP_KEEPINTVL, keepalive.interval),
                (socket.TCP_KEEPCNT, keepalive.count),
            )
        ]
    return options
