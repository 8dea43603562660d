"""The standard output of a daemon whose stderr is a terminal that will be closed: the journal.

What a handler, its child processes and Python itself print is in the journal then, as in a service.
The protocol is that of sd_journal_stream_fd(3): a few lines in the beginning say how to store what
follows.
"""

from __future__ import annotations

import os
import socket

from graced.log import sinks

JOURNAL_STREAM_SOCKET = "/run/systemd/journal/stdout"
_PRIORITY = 6
"""LOG_INFO of syslog(3), as systemd has it for the output of a service."""
_SEND_BUFFER = 8 * 1024 * 1024
"""Bytes that journald need not read at once; the kernel allows less."""


def connect_to_journal() -> None:
    """Connect stdout and stderr to the journal, if it is there; else they stay as they are."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        try:
            sock.connect(JOURNAL_STREAM_SOCKET)
            sock.shutdown(socket.SHUT_RD)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
            # Identifier, unit (known to journald), priority, whether a line may begin with another
            # priority; and whether to send the lines to syslog, kernel log and console too.
            sock.sendall(f"{sinks.identifier()}\n\n{_PRIORITY}\n1\n0\n0\n0\n".encode())
        except OSError:
            # There is no journal here.
            return
        for fd in (1, 2):
            os.dup2(sock.fileno(), fd)
