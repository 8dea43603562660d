"""The pidfile: a lock that says who runs.

Running is holding the lock (flock(2)), whatever the file says: the kernel lets go of it when the
process ends, however it ends, so a stale, recycled or foreign pid in the file is no obstacle and
nobody ever asks whether a pid is alive.  The lock is taken before the fork, on the caller's
terminal, and goes with the open file description to the daemon, which writes its pid.
"""

from __future__ import annotations

import fcntl
import os
import stat

from graced.errors import AlreadyRunningError, PidFileError


class PidFile:
    """A locked pidfile.  Main thread only."""

    def __init__(self, path: str) -> None:
        """Create and lock it.

        Raises `AlreadyRunningError` where somebody holds the lock, `PidFileError` where the file
        cannot be written or is something that we had better not write to.
        """
        self.path = os.path.abspath(path)
        self._fd = self._lock()

    def _lock(self) -> int:
        while True:
            fd = self._open()
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if self._is_at_path(fd):
                    self._check_owner(fd)
                    return fd
            except BlockingIOError:
                owner = os.pread(fd, 20, 0).decode("ascii", "replace").strip()
                os.close(fd)
                who = f" with pid {owner}" if owner.isdigit() else ""
                raise AlreadyRunningError(f"already running{who}: {self.path} is locked") from None
            except OSError as error:
                if not os.fstat(fd).st_size:
                    # Made by us a moment ago, or nobody's.
                    os.unlink(self.path)
                os.close(fd)
                raise self._cannot(error) from None
            # Its owner has removed it between our opening and our locking.
            os.close(fd)

    def _open(self) -> int:
        # O_NONBLOCK: a fifo in its place must not make us wait; O_NOFOLLOW: nor a link lead us.
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            self._check_directory()
            # For its owner alone: who can read it could lock what a killed daemon has left.
            fd = os.open(self.path, flags, 0o600)
        except OSError as error:
            raise self._cannot(error) from None
        status = os.fstat(fd)
        if stat.S_ISREG(status.st_mode) and status.st_nlink == 1:
            return fd
        os.close(fd)
        raise PidFileError(f"cannot write pidfile {self.path}: it is no plain file")

    def _check_owner(self, fd: int) -> None:
        owner = os.fstat(fd).st_uid
        if owner not in {os.geteuid(), 0}:
            os.close(fd)
            raise PidFileError(f"cannot write pidfile {self.path}: it belongs to user {owner}")

    def _check_directory(self) -> None:
        directory = os.path.dirname(self.path)
        mode = os.stat(directory).st_mode
        if mode & stat.S_IWOTH:
            raise PidFileError(
                f"cannot write pidfile {self.path}: everybody may write to {directory}"
            )

    def _is_at_path(self, fd: int) -> bool:
        try:
            return os.path.samestat(os.fstat(fd), os.lstat(self.path))
        except FileNotFoundError:
            return False

    def fileno(self) -> int:
        """The descriptor that holds the lock, to be preserved over a fork."""
        return self._fd

    def write(self) -> None:
        """Write the pid of this process.  Raises `PidFileError`."""
        try:
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)
        except OSError as error:
            raise self._cannot(error) from None

    def _cannot(self, error: OSError) -> PidFileError:
        return PidFileError(f"cannot write pidfile {self.path}: {error.strerror}")

    def remove(self) -> None:
        """Remove it and let go of the lock; what has been put in its place is left alone."""
        try:
            if self._is_at_path(self._fd):
                os.unlink(self.path)
        except OSError:
            # The directory may be read-only to us by now; an unlocked pidfile stops nobody.
            pass
        finally:
            os.close(self._fd)
