"""The rights of a peer of the control socket, by the user and the groups that the kernel names."""

from __future__ import annotations

import os
import struct
from socket import SO_PEERCRED, SOL_SOCKET
from types import SimpleNamespace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from socket import socket

ROOT = 0
_CREDENTIALS = struct.Struct("3i")
"""pid, user and group, unix(7)."""
_SO_PEERGROUPS = 59
"""Of asm-generic/socket.h, which Python does not name; not of all processors."""
_MOST_GROUPS = 256
"""More are not returned: Python reads no longer option."""
_GROUP = struct.Struct("I")


class Rights(SimpleNamespace):
    """What a peer may do."""

    user: int
    """The number of its user when it connected."""
    may_look: bool
    may_act: bool


def rights_of(sock: socket) -> Rights:
    """The rights of the peer of a Unix socket.  Raises `OSError`.

    Root and the user of the service may do everything, the group of the service may look.  In the
    sandbox of the unit all other users have the same number, and their groups are missing.
    """
    data = sock.getsockopt(SOL_SOCKET, SO_PEERCRED, _CREDENTIALS.size)
    _, user, group = _CREDENTIALS.unpack(data)
    may_act = user in {ROOT, os.geteuid()}
    may_look = may_act or os.getegid() in {group, *_further_groups(sock)}
    return Rights(user=user, may_look=may_look, may_act=may_act)


def _further_groups(sock: socket) -> list[int]:
    try:
        data = sock.getsockopt(SOL_SOCKET, _SO_PEERGROUPS, _MOST_GROUPS * _GROUP.size)
    except OSError:
        return []
    return [group for (group,) in _GROUP.iter_unpack(data)]
