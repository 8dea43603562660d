"""One listening socket, and the end of it.

close(2) resets every connection in the queue of a listening socket.  To lose no client at the end,
new connections have to be refused while the queue can still be accepted.  The kernel offers that
without privileges:

* TCP: a listening socket that is bound to a network interface takes connections from there only
  (SO_BINDTOIFINDEX, Linux 5.7 and newer).  Bound to an interface that does not exist it takes none:
  a SYN is answered with RST, as if nobody listened.  A handshake that has begun is finished all the
  same, since the kernel finds it by its addresses and not by the listening socket.
* Unix: after shutdown(SHUT_RD) connect(2) fails, and accept(2) goes on to the end of the queue.

Seen on Debian's 6.1 and on 6.18, by an ordinary user; a filter that drops SYNs (SO_ATTACH_FILTER)
was not permitted on either.  In 600 stops with 3 clients that connect all the time, none of 700,000
clients was reset (tests/robustness/test_last_clients.py, in the large form).
"""

from __future__ import annotations

import errno
import os
import select
import socket

from graced.log import events
from graced.sockets.accepted import BareSocket, set_up_again
from graced.sockets.address import TLS, format_listener
from graced.sockets.tcp_info import queue_length

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from graced.sockets.accepted import KeepAlive

HANDSHAKE_TIME = 0.005
"""Seconds for handshakes that have begun: on one machine 0.07 ms were seen, and a network of a
building takes less than a millisecond."""
_SO_BINDTOIFINDEX = 62
"""asm-generic/socket.h; Python has no name for it."""
_NO_INTERFACE = 0x7FFFFFFF
"""Interfaces are numbered from 1 on."""
_MAX_QUEUE = 65535
"""Connections: the largest backlog."""
_SO_PEEK_OFF = 42
"""asm-generic/socket.h; Python has no name for it."""
_MOST = 0x7FFFFFFF
"""What fits into an option of a socket."""


class Listener:
    """One listening socket."""

    fallible = False

    def __init__(
        self,
        sock: socket.socket,
        *,
        passed: bool = False,
        inherited: bool = False,
        keepalive: KeepAlive | None = None,
    ) -> None:
        """The path of an `inherited` socket is not ours until `own_path`.

        `keepalive`: of clients that wait in the queue of a TCP socket that others have made.
        """
        self.sock = sock
        self.passed = passed
        """Whether the service manager owns the socket, which stays open when we stop."""
        self.inherited = inherited
        """Whether the last process has bound the socket."""
        self._kind: type[socket.socket] = socket.socket
        """The class of the sockets of clients."""
        self.tls = False
        """Whether its clients speak TLS: see `secure`."""
        self.name = format_listener(sock.getsockname())
        self._accept = sock._accept  # type: ignore[attr-defined]
        self._keepalive = keepalive
        """None: the next client in the queue has the options of the listener."""
        # Plain numbers: the socket's own attributes are made into an enum at each look.
        self._family, self._type = int(sock.family), int(sock.type)
        self._path = ""
        self._inode = 0
        if not inherited:
            self.own_path()

    def secure(self) -> None:
        """Let the clients speak TLS, and the log say so."""
        if not self.tls:
            self.tls, self.name = True, f"{TLS}{self.name}"
            self._kind = BareSocket

    def accept(self) -> tuple[socket.socket, Any]:
        """Accept a client like `socket.accept`, without the cost of its Python wrapper."""
        fd, peer = self._accept()
        sock = self._kind(self._family, self._type, 0, fd)
        if self._keepalive:
            self._set_up_early(sock, self._keepalive)
        return sock, peer

    def _set_up_early(self, sock: socket.socket, keepalive: KeepAlive) -> None:
        """Set the options of a client that has connected before the listener had them.

        The queue is in the order of coming: behind the first client that has them, all have.
        """
        try:
            if not set_up_again(sock, keepalive):
                self._keepalive = None
        except OSError as error:
            # Not of this client: a container forbids the call.
            self._keepalive = None
            reason = f"clients that came before the start may have no keepalive: {error.strerror}"
            events.LIMITS(reason=reason)

    def refuse_connections(self) -> float:
        """Refuse new connections for good; the connections in the queue can still be accepted.

        Return the seconds in which handshakes that have begun may still add to the queue.  Where
        the kernel does not allow it, the log says so.
        """
        try:
            if self._family == socket.AF_UNIX:
                self.sock.shutdown(socket.SHUT_RD)
                return 0.0
            self.sock.setsockopt(socket.SOL_SOCKET, _SO_BINDTOIFINDEX, _NO_INTERFACE)
        except OSError as error:
            events.CANNOT_REFUSE(address=self.name, reason=error.strerror)
            return 0.0
        return HANDSHAKE_TIME

    def last_connections(self) -> Iterator[socket.socket]:
        """Refuse new connections, and accept the queue until nothing can be added to it.

        Waits for handshakes that have begun, for `HANDSHAKE_TIME` after the last connection.
        Where the kernel does not let us refuse, only those are accepted that are queued by now.
        """
        timeout = self.refuse_connections()
        # Of a Unix socket the kernel does not say it, and nothing is added to its queue any more.
        most = None if timeout else queue_length(self.sock)
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        for _ in range(_MAX_QUEUE if most is None else most):
            try:
                yield self.accept()[0]
            except BlockingIOError:
                # A Unix socket that refuses is readable for ever.
                if not (timeout and poll.poll(timeout * 1000)):
                    return
            except ConnectionAbortedError:
                # One client has gone; the queue goes on.
                continue
            except OSError as error:
                # EINVAL: the end of the queue of a Unix socket, where accept(2) may wait.  Else no
                # descriptor for one more.
                if error.errno != errno.EINVAL:
                    events.CANNOT_REFUSE(address=self.name, reason=error.strerror)
                return

    def own_path(self) -> None:
        """Take responsibility for the path of a Unix socket: `close` removes it."""
        if self._family == socket.AF_UNIX and not self.passed:
            try:
                path = self.sock.getsockname()
                status = os.stat(path)
                self._inode = status.st_ino
                self._path = path
                _note(self.sock, status)
            except OSError:
                # Somebody has removed it: there is nothing to be responsible for.
                self._path = ""

    def has_lost_path(self) -> bool:
        """Whether the path of a Unix socket leads to something else by now, or nowhere."""
        try:
            return bool(self._path) and os.stat(self._path).st_ino != self._inode
        except OSError:
            return True

    def disown_path(self) -> None:
        """Let `close` keep the path of a Unix socket: the next process listens there."""
        self._path = ""

    def close(self) -> None:
        """Close the socket, and remove the path of a Unix socket if it still is ours."""
        self.sock.close()
        if self._path:
            try:
                if os.stat(self._path).st_ino == self._inode:
                    os.unlink(self._path)
            except OSError:
                # Removed already, or in a directory that we may no longer write to.  The next
                # start replaces a path at which nobody listens.
                self._path = ""


def refuses_connections(sock: socket.socket) -> bool:
    """Whether another process has called `Listener.refuse_connections` on the listening socket.

    Neither way to refuse can be taken back.
    """
    if sock.family == socket.AF_UNIX:
        poll = select.poll()
        poll.register(sock, select.POLLRDHUP)
        return bool(poll.poll(0))
    return bound_interface(sock) == _NO_INTERFACE


def _note(sock: socket.socket, status: os.stat_result) -> None:
    """Let the next process know which inode a Unix socket is bound to: `leads_to`.

    The kernel tells only root.  The option is for reads, and nobody reads a listening socket.
    """
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_PEEK_OFF, _number_of(status))
    except OSError:
        # A container forbids it: then `leads_to` knows no better than a socket without a note.
        return


def leads_to(status: os.stat_result, sock: socket.socket) -> bool:
    """Whether a path, of that status, may be the one that a listening Unix socket is bound to.

    The number of the inode is taken as long as a process has the socket.
    """
    try:
        noted = sock.getsockopt(socket.SOL_SOCKET, _SO_PEEK_OFF)
    except OSError:
        return True
    # -1: an older version has bound it.
    return noted in {-1, _number_of(status)}


def _number_of(status: os.stat_result) -> int:
    """A number for an inode of a file system: two of them may count from 1."""
    return status.st_dev * 31 + status.st_ino & _MOST


def bound_interface(sock: socket.socket) -> int:
    """The number of the interface that a TCP socket is bound to; 0: none."""
    try:
        return sock.getsockopt(socket.SOL_SOCKET, _SO_BINDTOIFINDEX)
    except OSError:
        # A kernel that does not know the option: nobody can have set it.
        return 0
