"""Runs the command behind it as a service manager does that reaps every orphan at once.

This process becomes the parent of orphans (prctl(2), PR_SET_CHILD_SUBREAPER) and ignores SIGCHLD,
so that the kernel reaps each the moment it ends.  It ends when its standard input does; what still
runs then is its own parent's.
"""

from __future__ import annotations

import ctypes
import signal
import subprocess
import sys

_PR_SET_CHILD_SUBREAPER = 36


if __name__ == "__main__":
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    # Its status is lost, as all are.
    command = subprocess.Popen(
        ["env", "--default-signal=CHLD", *sys.argv[1:]], stdin=subprocess.DEVNULL
    )
    print(command.pid, flush=True)
    sys.stdin.read()
    command.returncode = 0
