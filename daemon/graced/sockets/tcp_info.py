"""What the kernel knows of a TCP connection (tcp(7), TCP_INFO; struct tcp_info of linux/tcp.h)."""

from __future__ import annotations

import socket
import struct

_SIZE = 216
_FIELDS = struct.Struct("=24x I 16x I 4x I 88x I 52x 2Q")
"""unacked, last_data_sent, last_data_recv, notsent_bytes, bytes_sent, bytes_retrans"""


class TcpInfo:
    """The state of one connection."""

    __slots__ = ("pending", "silence", "unsaid", "written")

    def __init__(self, silence: float, unsaid: float, written: int, *, pending: bool) -> None:
        self.silence = silence
        """Seconds since a byte went either way."""
        self.unsaid = unsaid
        """Seconds since a byte was sent."""
        self.written = written
        """Bytes that were written to the socket so far, whether they have arrived or not."""
        self.pending = pending
        """Whether some of them have not arrived."""


def tcp_info(sock: socket.socket) -> TcpInfo | None:
    """Ask the kernel; None where `sock` is not TCP, is closed, or the kernel is older than 4.19."""
    try:
        data = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _SIZE)
        unacked, sent_ago, received_ago, unsent, sent, again = _FIELDS.unpack(data)
    except (OSError, struct.error):
        return None
    return TcpInfo(
        silence=min(sent_ago, received_ago) / 1000,
        unsaid=sent_ago / 1000,
        written=sent - again + unsent,
        pending=bool(unacked or unsent),
    )
