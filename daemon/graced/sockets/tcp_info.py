"""The kernel's figures of a TCP connection: TCP_INFO of tcp(7), struct tcp_info of linux/tcp.h."""

from __future__ import annotations

import socket
import struct

_SIZE = 216
_LISTENER = struct.Struct("=24x I")
"""unacked, which is the length of the queue of a listening socket"""
_ESTABLISHED, _CLOSE = 1, 7
"""States of linux/tcp_states.h."""
_FIELDS = struct.Struct("=B 23x I 16x I 4x I 72x Q 8x I 52x 2Q")
"""state, unacked, last_data_sent, last_data_recv, bytes_received, notsent_bytes, bytes_sent,
bytes_retrans"""


class TcpInfo:
    """The state of one connection."""

    __slots__ = ("established", "pending", "received", "received_ago", "sent_ago", "written")

    def __init__(
        self,
        *,
        sent_ago: float,
        received_ago: float,
        received: int,
        written: int,
        pending: bool,
        established: bool = True,
    ) -> None:
        self.sent_ago = sent_ago
        """Seconds since the last byte that was sent, in steps of a jiffy (4 ms on Debian)."""
        self.received_ago = received_ago
        """Seconds since the last byte that was received, in the same steps."""
        self.received = received
        """Bytes that the client has sent so far."""
        self.written = written
        """Bytes that were written to the socket so far, arrived or not."""
        self.pending = pending
        """Whether bytes that were written have not arrived."""
        self.established = established
        """Whether neither side has ended its half of the connection."""

    @property
    def silence(self) -> float:
        """Seconds since the last byte in either direction."""
        return min(self.sent_ago, self.received_ago)


def tcp_info(sock: socket.socket, header: int = 0) -> TcpInfo | None:
    """Ask the kernel; None where `sock` is not TCP, is closed, or the kernel is older than 4.19.

    `header`: bytes that have come before the client's own, from its proxy.
    """
    try:
        data = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _SIZE)
        state, unacked, sent_ago, received_ago, received, unsent, sent, again = _FIELDS.unpack(data)
    except (OSError, struct.error):
        return None
    return TcpInfo(
        sent_ago=sent_ago / 1000,
        received_ago=received_ago / 1000,
        received=received - header,
        written=sent - again + unsent,
        pending=bool(unacked or unsent),
        established=state == _ESTABLISHED,
    )


def is_broken(sock: socket.socket) -> bool:
    """Whether the kernel has given up a TCP connection: the client has reset it, or is lost.

    Before anything of ours has closed it; that of a Unix socket is never known.
    """
    try:
        return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _CLOSE
    except OSError:
        return False


def spoke_last(sock: socket.socket, info: TcpInfo) -> bool:
    """Whether no byte has come from the client since our last byte.

    The kernel notes both times in jiffies, and a client that hears an answer can send its next
    request in the same jiffy.  Then the acknowledgements decide.  An answer acknowledges its
    request, and puts the connection into the "interactive" mode, in which the kernel waits 40 ms
    for an answer before it acknowledges.  Bytes that no answer follows make the kernel leave this
    mode, which TCP_QUICKACK of tcp(7) shows.  (Bytes that came in two segments, in that jiffy, may
    be acknowledged at once, and are not noticed.)
    """
    if not info.received:
        return True
    if not info.written:
        return False
    if info.sent_ago != info.received_ago:
        return info.sent_ago < info.received_ago
    return not sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK)


def queue_length(sock: socket.socket) -> int | None:
    """Return how many connections wait for accept(2); None where the kernel does not say.

    `sock`: a listening socket.  The kernel does not say it of a Unix socket.
    """
    try:
        data = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _LISTENER.size)
        (length,) = _LISTENER.unpack(data)
    except (OSError, struct.error):
        return None
    return int(length)
