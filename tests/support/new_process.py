"""Programs in place of the graced that a reload starts."""

from __future__ import annotations

import os
import sys
from typing import Any

from graced.app.launch import Launch

PREAMBLE = """
import os, signal, socket, sys
words = dict(word.split("=") for word in os.environ["GRACED_RELOAD"].split())
channel = socket.socket(fileno=int(words["channel"]))
channel.setblocking(True)
def detach():
    if os.fork():
        os._exit(0)
    os.setsid()
    channel.send(f"HELLO pid={os.getpid()} version=9\\n".encode())
"""
WAITS = "detach(); channel.recv(99)"
HANGS = "detach(); signal.pause()"


def launch(code: str, **changes: Any) -> Launch:
    """A launch of a Python program in place of graced."""
    properties: dict[str, Any] = {
        "program": [sys.executable, "-I", "-c", PREAMBLE + code],
        "arguments": [],
        "environment": {"PATH": "/usr/bin:/bin", "NOTIFY_SOCKET": "/run/x"},
        "directory": os.getcwd(),
        "descriptors": 4608,
    }
    return Launch(**{**properties, **changes})
