"""The kernel's figures of a TCP connection: TCP_INFO of tcp(7), struct tcp_info of linux/tcp.h."""

from __future__ import annotations

import socket
import struct

_SIZE = 216
_FIELDS = struct.Struct("=24x I 16x I 4x I 88x I 52x 2Q")
"""unacked, last_data_sent, last_data_recv, notsent_bytes, bytes_sent, bytes_retrans"""


class TcpInfo:
    """The state of one connection."""

    __slots__ = ("pending", "sent_ago", "silence", "written")

    def __init__(self, silence: float, sent_ago: float, written: int, *, pending: bool) -> None:
        self.silence = silence
        """Seconds since the last byte in either direction."""
        self.sent_ago = sent_ago
        """Seconds since the last byte that was sent."""
        self.written = written
        """Bytes that were written to the socket so far, arrived or not."""
        self.pending = pending
        """Whether bytes that were written have not arrived."""


def tcp_info(sock: socket.socket) -> TcpInfo | None:
    """Ask the kernel; None where `sock` is not TCP, is closed, or the kernel is older than 4.19."""
    try:
        data = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _SIZE)
        unacked, sent_ago, received_ago, unsent, sent, again = _FIELDS.unpack(data)
    except (OSError, struct.error):
        return None
    return TcpInfo(
        silence=min(sent_ago, received_ago) / 1000,
        sent_ago=sent_ago / 1000,
        written=sent - again + unsent,
        pending=bool(unacked or unsent),
    )
