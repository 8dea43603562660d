"""The frames of all threads, without a deadlock of CPython.

``sys._current_frames`` holds a lock of the interpreter, and before CPython 3.12 garbage may be
collected meanwhile: what the collection calls may wait for the same lock, for ever, and the thread
keeps the interpreter to itself (issue 106883 of CPython; Debian 12 has 3.11.2).
"""

from __future__ import annotations

import gc
import sys
from threading import RLock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType

_lock = RLock()
"""One thread at a time: two would take each other's pause of the collector for the program's."""


def current_frames() -> dict[int, FrameType]:
    """As `sys._current_frames`: by the identity of the thread.  Any thread may call."""
    with _lock:
        collects = gc.isenabled()
        gc.disable()
        try:
            return sys._current_frames()
        finally:
            if collects:
                gc.enable()
