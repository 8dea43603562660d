"""The endpoint: the listening socket in the runtime directory, through which peers come.

Nothing else of the control socket is imported before the first peer: a start pays for a socket, and
a service that nobody asks anything for no more.
"""

from __future__ import annotations

import os
import select
import socket
import stat
from contextlib import suppress
from errno import ECONNREFUSED, EEXIST, ENOENT
from math import inf
from time import monotonic

from graced.log import events
from graced.log.event import summary_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.control.subject import Subject
    from graced.control.thread import ControlThread

MODE = 0o660
"""The group of the service may connect."""
BACKLOG = 16
"""Peers that wait."""
ACCEPTED_AT_ONCE = 8
"""Peers that are accepted before the main thread looks at anything else."""
PAUSE = 1.0
"""Seconds without another accept, after one that has failed for want of a descriptor."""
STOP_TIMEOUT = 0.05
"""Seconds that the end of the service waits for a reply that is being made."""


class Endpoint:
    """The listening socket at `path`.  Main thread only."""

    def __init__(self, path: str) -> None:
        """Bind, in the place of what the last process has left behind.  Raises `OSError`."""
        self._path = path
        self._subject: Subject | None = None
        self._thread: ControlThread | None = None
        self.due = inf
        """Monotonic time of the next look at peers that wait without an event."""
        self.interest = select.POLLIN
        """0 until then."""
        self._sock = self._bind()

    def _bind(self) -> socket.socket:
        _refuse_other_files(self._path)
        # The kernel remembers the name that a socket was bound to, and ss(8) shows it: it is this
        # path, unless another process listens there.  Then the file is made beside it and renamed,
        # so that nobody finds the path without a socket that is served.
        own = f"{self._path}.new" if _is_served(self._path) else self._path
        with suppress(FileNotFoundError):
            os.unlink(own)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            sock.bind(own)
            # Nobody can connect before it listens.
            os.chmod(own, MODE)
            sock.listen(BACKLOG)
            self._inode = os.stat(own).st_ino
            if own != self._path:
                os.rename(own, self._path)
        except BaseException:
            sock.close()
            raise
        return sock

    def bind_again(self) -> None:
        """Take the path back from a process that has died.  Raises `OSError`."""
        with self._bind() as sock:
            # The descriptor is watched, and keeps its number.
            os.dup2(sock.fileno(), self._sock.fileno(), inheritable=False)

    def fileno(self) -> int:
        """The descriptor that is readable when a peer has connected."""
        return self._sock.fileno()

    def serve(self, subject: Subject) -> None:
        """Answer questions about `subject` from now on; peers wait until then."""
        self._subject = subject

    def look(self) -> None:
        """Accept the peers that have connected."""
        self.due, self.interest = inf, select.POLLIN
        for _ in range(ACCEPTED_AT_ONCE):
            try:
                sock, _address = self._sock.accept()
            except BlockingIOError:
                return
            except ConnectionAbortedError:
                continue
            except OSError as error:
                events.CONTROL_FAILED(reason=f"cannot accept a peer: {error.strerror}")
                self.due, self.interest = monotonic() + PAUSE, 0
                return
            sock.setblocking(False)
            try:
                self._hand_over(sock)
            except Exception as error:
                # No descriptor or no thread is left; or an upgrade has replaced our modules.
                sock.close()
                events.CONTROL_FAILED(reason=f"cannot serve a peer: {summary_of(error)}")

    def _hand_over(self, sock: socket.socket) -> None:
        """Give a peer to the control thread, which may have to be started."""
        from graced.control.rights import rights_of  # noqa: PLC0415
        from graced.control.thread import ControlThread  # noqa: PLC0415

        assert self._subject
        rights = rights_of(sock)
        if self._thread and self._thread.add(sock, rights):
            return
        thread = ControlThread(self._subject)
        thread.add(sock, rights)
        try:
            thread.start()
        except RuntimeError:
            # In this thread, where it closes what it has and returns.
            thread.stop()
            thread.run()
            raise
        self._thread = thread

    def disown_path(self) -> None:
        """Leave the file to the next process, which replaces it."""
        self._inode = -1

    def close(self) -> None:
        """End the connections of all peers, within `STOP_TIMEOUT`, and remove the file."""
        self._sock.close()
        with suppress(OSError):
            # The next process may have replaced it.
            if os.lstat(self._path).st_ino == self._inode:
                os.unlink(self._path)
        if self._thread:
            self._thread.stop()
            self._thread.join(STOP_TIMEOUT)


def _is_served(path: str) -> bool:
    """Whether a process listens at `path`: the old one of a reload, and no leftover of a crash.

    Only root and the user of the service can put anything into the directory.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as sock:
        # A queue that is full is an error too, but not this one.
        return sock.connect_ex(path) not in {ECONNREFUSED, ENOENT}


def _refuse_other_files(path: str) -> None:
    """Raise `OSError` where `path` is something that no process of ours has made."""
    with suppress(FileNotFoundError):
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise FileExistsError(EEXIST, "the file is not a socket")
