"""The pidfile: a lock, and the pid of the process that holds the lock.

A daemon runs as long as its pidfile is locked (flock(2)), whatever pid the file contains.  The
kernel releases the lock when the process ends, however the process ends.  So a stale, recycled or
foreign pid in the file is no obstacle, and graced never tests whether a pid is alive.

The lock is taken before the fork, so that an error is shown on the terminal of the command.  The
lock goes with the open file description to the daemon, which writes its pid.
"""

from __future__ import annotations

import fcntl
import os
import stat

from graced.errors import AlreadyRunningError, PidFileError


class PidFile:
    """A locked pidfile.  For one thread at a time: the main thread, or the one of late claims."""

    def __init__(self, path: str, locked: int = -1) -> None:
        """Create and lock the file; or take over `locked`, a descriptor of the locked file.

        Raises `AlreadyRunningError` where another process holds the lock, `PidFileError` where the
        file cannot be written or must not be: no plain file, of another user, or in a directory
        that every user may write to.
        """
        self.path = os.path.abspath(path)
        """The absolute path, which does not change with the working directory."""
        self._fd = self._lock() if locked < 0 else self._take_over(locked)

    def _take_over(self, fd: int) -> int:
        # The process that has locked the file shares the lock with us, and whoever else has it
        # does not.
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if self._is_at_path(fd):
                return fd
        except OSError as error:
            raise self._cannot(error) from None
        raise PidFileError(f"cannot write pidfile {self.path}: it is another file than before")

    def _lock(self) -> int:
        while True:
            fd = self._open()
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if self._is_at_path(fd):
                    self._check_owner(fd)
                    return fd
            except BlockingIOError:
                owner = _owner(fd)
                os.close(fd)
                who = f" with pid {owner}" if owner else ""
                raise AlreadyRunningError(f"already running{who}: {self.path} is locked") from None
            except OSError as error:
                self._remove_if_empty(fd)
                os.close(fd)
                raise self._cannot(error) from None
            # The last owner has removed the file between `_open` and flock(2).
            os.close(fd)

    def _open(self) -> int:
        # O_NONBLOCK: a fifo at this path must not block; O_NOFOLLOW: a link must not be followed.
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            self._check_directory()
            # 0600: a user who can read the file of a killed daemon could lock the file.
            fd = os.open(self.path, flags, 0o600)
        except OSError as error:
            raise self._cannot(error) from None
        status = os.fstat(fd)
        if stat.S_ISREG(status.st_mode) and status.st_nlink == 1:
            return fd
        os.close(fd)
        raise PidFileError(f"cannot write pidfile {self.path}: it is no plain file")

    def _remove_if_empty(self, fd: int) -> None:
        """Remove the file that `_open` has created a moment ago, or that is of no use."""
        try:
            if self._is_at_path(fd) and not os.fstat(fd).st_size:
                os.unlink(self.path)
        except OSError:
            # The error of flock(2) is the one to report.
            return

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

    def owner(self) -> str:
        """The pid in the file; empty: there is none."""
        return _owner(self._fd)

    def is_lost(self) -> bool:
        """Whether the file is at its path no more, or could not be made there again."""
        try:
            self._check_directory()
            present = self._is_at_path(self._fd) and os.fstat(self._fd).st_nlink == 1
        except (OSError, PidFileError):
            return True
        return not (present and os.access(os.path.dirname(self.path), os.W_OK | os.X_OK))

    def write(self, pid: int = 0) -> None:
        """Write the pid of this process, or of another.  Raises `PidFileError`."""
        try:
            # In this order: at no moment the file is empty that names another process by now.
            size = os.pwrite(self._fd, f"{pid or os.getpid()}\n".encode(), 0)
            os.ftruncate(self._fd, size)
        except OSError as error:
            raise self._cannot(error) from None

    def _cannot(self, error: OSError) -> PidFileError:
        return PidFileError(f"cannot write pidfile {self.path}: {error.strerror}")

    def leave(self) -> None:
        """Leave file and lock to another process that has the descriptor."""
        os.close(self._fd)

    def remove(self) -> None:
        """Remove the file and release the lock; a new file at the same path is left alone."""
        try:
            if self._is_at_path(self._fd):
                os.unlink(self.path)
        except OSError:
            # The directory may be read-only by now; an unlocked pidfile does not stop a start.
            pass
        finally:
            os.close(self._fd)


def _owner(fd: int) -> str:
    try:
        owner = os.pread(fd, 20, 0).decode("ascii", "replace").strip()
    except OSError:
        return ""
    return owner if owner.isdigit() else ""
