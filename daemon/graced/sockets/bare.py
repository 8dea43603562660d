"""Connections of TLS listeners, for all who have no other business with TLS."""

from __future__ import annotations

import socket


class BareSocket(socket.socket):
    """A connection of a TLS listener before its handshake."""

    __slots__ = ()

    is_tls = True


def is_tls(sock: socket.socket) -> bool:
    """Whether a connection is in TLS, or will be: its keys are in this process alone."""
    return getattr(sock, "is_tls", False)
