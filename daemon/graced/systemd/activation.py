"""Descriptors that a service manager passes to a process that it starts: sd_listen_fds(3)."""

from __future__ import annotations

import os
import socket

from graced.errors import ListenError
from graced.log import events
from graced.sockets.accepted import KeepAlive, set_up_clients, set_up_multipath
from graced.sockets.address import format_address
from graced.sockets.listener import Listener

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import MutableMapping, Sequence

_FIRST_PASSED_FD = 3
"""SD_LISTEN_FDS_START."""
_FAMILIES = {socket.AF_INET, socket.AF_INET6, socket.AF_UNIX}
_MPTCP = 262
"""linux/in.h; Python has no name for it everywhere."""
_PROTOCOLS = {socket.IPPROTO_TCP, _MPTCP}
"""Of AF_INET and AF_INET6."""


def passed(environ: MutableMapping[str, str], pid: int) -> list[tuple[int, str]]:
    """The descriptors that a service manager passed to this process, with their names.

    To be called before any fork, in the process that was started.  Takes the variables out of
    `environ`, so that no child believes them (sd_listen_fds_with_names(3)).  Raises `ListenError`
    where the variables make no sense.
    """
    keys = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
    values = {name: environ.pop(name, "") for name in keys}
    if not values["LISTEN_FDS"] or values["LISTEN_PID"] != str(pid):
        return []
    number = values["LISTEN_FDS"]
    if not (number.isascii() and number.isdigit() and len(number) <= len("65535")):
        raise ListenError(f"LISTEN_FDS must be a number of descriptors, not {number[:40]!r}")
    descriptors = range(_FIRST_PASSED_FD, _FIRST_PASSED_FD + int(number))
    names = values["LISTEN_FDNAMES"].split(":")
    names += [""] * (len(descriptors) - len(names))
    return list(zip(descriptors, names, strict=False))


def adopt(
    descriptors: Sequence[int],
    keepalive: KeepAlive | None = None,
    refused: list[ListenError] | None = None,
) -> list[Listener]:
    """Listen on sockets that belong to the service manager.

    Raises `ListenError` where one of the descriptors is no listening stream socket of a family that
    graced serves; with `refused`, which gets the error, the others are served.  None is closed.
    """
    good = []
    for fd in descriptors:
        try:
            _check(fd)
            good.append(fd)
        except ListenError as error:
            if refused is None:
                raise
            refused.append(error)
    return [_adopt(fd, keepalive or KeepAlive()) for fd in good]


def _check(fd: int) -> None:
    try:
        sock = socket.socket(fileno=fd)
    except OSError as error:
        raise ListenError(f"passed descriptor {fd} is no socket: {error.strerror}") from None
    try:
        listening = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        if not listening or sock.type != socket.SOCK_STREAM:
            raise ListenError(f"passed descriptor {fd} is no listening stream socket")
        if sock.family not in _FAMILIES:
            raise ListenError(f"passed descriptor {fd} is no TCP or Unix socket")
        if sock.family != socket.AF_UNIX and sock.proto not in _PROTOCOLS:
            raise ListenError(f"passed descriptor {fd} is no TCP socket")
    finally:
        sock.detach()


def _adopt(fd: int, keepalive: KeepAlive) -> Listener:
    sock = socket.socket(fileno=fd)
    try:
        os.set_inheritable(fd, False)
        sock.setblocking(False)
        if sock.family == socket.AF_UNIX:
            return Listener(sock, passed=True)
        if sock.proto == _MPTCP:
            if reason := set_up_multipath(sock, keepalive):
                name = format_address(sock.getsockname())
                events.LIMITS(reason=f"{name}: MPTCP without some options of TCP: {reason}")
            return Listener(sock, passed=True)
        set_up_clients(sock, keepalive)
        return Listener(sock, passed=True, keepalive=keepalive)
    except OSError as error:
        raise ListenError(f"passed descriptor {fd}: {error.strerror}") from None
