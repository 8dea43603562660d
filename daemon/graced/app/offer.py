"""What a new process gets of the old one that has started it: the channel, and the offer on it."""

from __future__ import annotations

import os
import socket
import struct

from graced.app.launch import RELOAD
from graced.app.new_process import HELD, HELD_BACK
from graced.errors import StartError
from graced.handover.fdstore import CLIENTS, LISTENERS
from graced.handover.inherited import Inherited
from graced.reload.channel import Channel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from graced.reload.channel import Letter
    from graced.sockets.accepted import KeepAlive

_CREDENTIALS = struct.Struct("3i")
"""pid, user and group, unix(7)."""


class Invitation:
    """What a new process has from the beginning."""

    def __init__(self, channel: Channel, old: int, held: dict[str, str]) -> None:
        self.channel = channel
        self.old = old
        """A descriptor of the old process (pidfd)."""
        self.held = held
        """The variables of the service manager, for the time after the commit."""


def of_this_process(environ: MutableMapping[str, str]) -> Invitation | None:
    """The reload that this process was started for; None: it was not.

    Takes the variables out of `environ`, so that no child believes them.  Raises `StartError`.
    """
    words = dict(word.partition("=")[::2] for word in environ.pop(RELOAD, "").split())
    held = {name: environ.pop(HELD + name, "") for name in HELD_BACK}
    old = os.getppid()
    channel = words.get("channel", "")
    if words.get("pid") != str(old) or not (channel.isascii() and channel.isdigit()):
        return None
    sock = _channel(int(channel), old)
    if not sock:
        return None
    if "SYSTEMD_EXEC_PID" in environ:
        # This process is in the place of the one that the service manager has started.
        environ["SYSTEMD_EXEC_PID"] = str(os.getpid())
    try:
        old_fd = os.pidfd_open(old)
    except OSError as error:
        raise StartError(f"the old process cannot be watched: {error.strerror}") from None
    return Invitation(Channel(sock), old_fd, {name: held[name] for name in held if held[name]})


def _channel(fd: int, old: int) -> socket.socket | None:
    """The socket, if the process `old` has made it."""
    try:
        sock = socket.socket(fileno=fd)
    except OSError:
        return None
    try:
        kind = sock.family, sock.type
        data = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        if kind == (socket.AF_UNIX, socket.SOCK_SEQPACKET) and _CREDENTIALS.unpack(data)[0] == old:
            os.set_inheritable(fd, False)
            return sock
    except OSError:
        # No Unix socket.
        pass
    sock.detach()
    return None


class Offer:
    """What the old process has offered.  Owns the descriptors, until they are taken."""

    def __init__(self, letter: Letter) -> None:
        """Raises `StartError`."""
        number = 2 + letter.number("listeners") + letter.number("passed")
        if letter.cut or len(letter.descriptors) != number:
            raise StartError(f"{number} descriptors were offered, and not all have arrived")
        self.pid_file, self.stderr, *rest = letter.descriptors
        own = letter.number("listeners")
        self.listeners, self.passed = rest[:own], rest[own:]
        self.goes_on = bool(letter.number("goes_on"))
        letter.descriptors.clear()

    def take_stderr(self) -> None:
        """Print where the old process prints."""
        for fd in (1, 2):
            os.dup2(self.stderr, fd)
        os.close(self.stderr)

    def inherited(self, keepalive: KeepAlive) -> Inherited:
        """The listeners, which the old process accepts from."""
        own = [(fd, LISTENERS) for fd in self.listeners]
        passed = [(fd, "") for fd in self.passed]
        found = Inherited([*own, *passed], keepalive, in_use=True)
        # The place of the old process in the store is for this one.
        found.names |= {LISTENERS, CLIENTS}
        return found
