"""Files that other people's code has left open at the end: nothing that was written is lost.

Python completes such a file at its exit, by the destructor of the object, and graced exits by
_exit(2) (`graced.app.last_steps`).  A plain file is flushed, as a thread may still write to it.  A
file of another kind is closed, because only its end makes it a whole file: the checksum of gzip,
the directory of a ZIP archive.
"""

from __future__ import annotations

import gc
import io
import socket
import sys
from _io import _IOBase

from graced.errors import shown
from graced.log import events

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

_COMPLETED_BY_DESTRUCTOR = frozenset(
    {"aifc", "dbm.dumb", "fileinput", "shelve", "sunau", "tempfile", "wave", "zipfile"}
)
"""Modules of Python with a destructor that completes, or removes, a file."""
_PLAIN = (io.FileIO, io.BytesIO, io.StringIO)
"""Classes of files that are whole at any time."""


def complete() -> None:
    """Flush and close the files that are open for writing.

    A file that cannot be written is one record of the log, and costs no other file anything.
    """
    for file in _outermost_first(_open_files()):
        try:
            _complete(file)
        except (ValueError, ConnectionError, ResourceWarning):
            # Another thread has closed it; it was a connection, which has ended; Python 3.13 says
            # that the program has left it open.
            continue
        except Exception as error:
            # A full disk, or a class of the handler's own.
            name = shown(getattr(file, "name", "without a name"))
            reason = str(error) or repr(error)
            events.LIMITS(reason=f"the last bytes of the file {name} are lost: {reason}")


def _open_files() -> list[Any]:
    # By the identity of the class: a class need not have a hash.
    known: dict[int, bool] = {}
    files = []
    for each in gc.get_objects():
        kind = type(each)
        if id(kind) not in known:
            try:
                known[id(kind)] = _is_file_class(kind)
            except Exception:
                # A class whose own class does not even tell its attributes.
                known[id(kind)] = False
        if known[id(kind)]:
            files.append(each)
    return files


def _is_file_class(kind: type) -> bool:
    # The base that is written in C: `io.IOBase` would ask for the hash of the class.
    if issubclass(kind, _IOBase):
        return not _is_part(kind)
    destructor = getattr(kind, "__del__", None)
    return getattr(destructor, "__module__", None) in _COMPLETED_BY_DESTRUCTOR


def _is_part(kind: type) -> bool:
    """Whether a class of Python is a part of something else, which closes it.

    The input or output of a socket; a pair, whose output is a file of its own; or a private class:
    `gzip._WriteBufferStream`.
    """
    if kind is socket.SocketIO or kind is io.BufferedRWPair:
        return True
    is_of_python = kind.__module__.partition(".")[0] in sys.stdlib_module_names
    return is_of_python and kind.__name__.startswith("_")


def _outermost_first(files: list[Any]) -> list[Any]:
    """The files in an order in which each comes before the files that it writes to."""
    found = {id(file) for file in files}
    seen: set[int] = set()
    innermost_first = []
    for first in reversed(files):
        # A file comes up a second time when all that it writes to is done.
        waiting = [(first, False)]
        while waiting:
            file, is_second = waiting.pop()
            if is_second:
                innermost_first.append(file)
            elif id(file) not in seen:
                seen.add(id(file))
                waiting.append((file, True))
                waiting += [(each, False) for each in _referents(file) if id(each) in found]
    return innermost_first[::-1]


def _referents(file: Any) -> Iterator[Any]:
    for each in gc.get_referents(file):
        if type(each) is dict:
            yield from each.values()
        else:
            yield each


def _complete(file: Any) -> None:
    if not isinstance(file, _IOBase):
        file.__del__()
    elif not file.closed and file.writable():
        kind = type(_bottom(file))
        if kind is socket.SocketIO:
            return
        stays = kind in _PLAIN or _is_part(kind) or file is sys.stdout or file is sys.stderr
        file.flush() if stays else file.close()


def _bottom(file: Any) -> Any:
    """The file that the wrappers of `io` write to in the end."""
    while isinstance(file, io.TextIOWrapper | io.BufferedWriter | io.BufferedRandom):
        file = file.buffer if isinstance(file, io.TextIOWrapper) else file.raw
    return file
