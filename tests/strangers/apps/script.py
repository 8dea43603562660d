"""What a script of `strangers.apps.scripts` does."""

from __future__ import annotations

import os
import sys

from strangers import gate
from strangers.apps import MODERATE, QUICK, big, checksum, paused


def answer() -> None:
    """What the script does."""
    what = os.environ["PATH_INFO"].strip("/")
    if what == "upload":
        length = int(os.environ["CONTENT_LENGTH"])
        parts = iter([checksum(sys.stdin.buffer.read(length)).encode()])
    elif what == "slow":
        gate.wait()
        parts = iter([QUICK])
    else:
        parts = {"quick": iter([QUICK]), "big": big(MODERATE), "paused": paused()}[what]
    os.write(1, b"Content-Type: text/plain\r\n\r\n")
    for part in parts:
        with open(1, "wb", closefd=False) as file:
            file.write(part)
