"""Waiting for a unit to change, without polling: systemd says so on the device's system bus.

Just enough of the D-Bus protocol to ask for the signals and to see that one came; what changed is
then read with systemctl. ``busctl monitor`` would do the first half, but its newer versions do
not say when they have begun to listen.
"""

import socket
import struct
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rigging.errors import PATIENCE, RigError

# Message types.
_CALL = 1
_ERROR = 3
_SIGNAL = 4

# Header fields of a call: number, type, value.
_PATH = 1
_INTERFACE = 2
_MEMBER = 3
_DESTINATION = 6
_SIGNATURE = 8

_MANAGER = ("org.freedesktop.systemd1", "/org/freedesktop/systemd1")
_BUS = ("org.freedesktop.DBus", "/org/freedesktop/DBus")

# Seconds for the bus to answer a call.
_ANSWER = 10.0


class UnitWatch:
    """Waits for a unit's properties to become what they should; a context manager.

    ``bus`` is a connection to the device's system bus, which is closed with the watch. Whatever
    happens after the constructor has returned is noticed.
    """

    def __init__(
        self, bus: socket.socket, unit: str, properties: Callable[[], dict[str, str]]
    ) -> None:
        self._properties = properties
        self._socket = bus
        try:
            self._socket.settimeout(_ANSWER)
            self._authenticate()
            self._call(_BUS, "org.freedesktop.DBus", "Hello")
            path = f"/org/freedesktop/systemd1/unit/{_escape(unit)}"
            rule = f"type='signal',path='{path}',member='PropertiesChanged'"
            self._call(_BUS, "org.freedesktop.DBus", "AddMatch", rule)
            self._call(_MANAGER, "org.freedesktop.systemd1.Manager", "Subscribe")
        except BaseException:
            self._socket.close()
            raise

    def until(
        self, wanted: Callable[[dict[str, str]], bool], timeout: float = PATIENCE
    ) -> dict[str, str]:
        """The unit's properties once they are wanted. Raises RigError after timeout seconds."""
        deadline = time.monotonic() + timeout
        while not wanted(properties := self._properties()):
            try:
                while self._message(deadline) != _SIGNAL:
                    pass
            except TimeoutError:
                state = "\n".join(f"{key}={value}" for key, value in sorted(properties.items()))
                raise RigError(f"not so in {timeout:g} s; the unit is:\n{state}") from None
        return properties

    def order_stop(self, unit: str) -> None:
        """Send systemd the order to stop a unit; returns when it lies there, read or not.

        For a systemd that does not run at the moment: the order is what it reads when it goes on.
        The watch stays open until then, since systemd asks the bus for the sender's user.
        """
        self._send(_MANAGER, "org.freedesktop.systemd1.Manager", "StopUnit", unit, "replace")
        # The bus answers in turn: the order has been passed on by then.
        self._call(_BUS, "org.freedesktop.DBus", "GetId")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._socket.close()

    def _authenticate(self) -> None:
        self._socket.sendall(b"\0AUTH EXTERNAL " + b"0".hex().encode() + b"\r\n")
        answer = self._socket.recv(256)
        if not answer.startswith(b"OK "):
            raise RigError(f"the bus refuses us: {answer!r}")
        self._socket.sendall(b"BEGIN\r\n")

    def _call(self, peer: tuple[str, str], interface: str, member: str, *arguments: str) -> None:
        self._send(peer, interface, member, *arguments)
        deadline = time.monotonic() + _ANSWER
        while (kind := self._message(deadline)) == _SIGNAL:
            pass
        if kind == _ERROR:
            raise RigError(f"the bus does not do {interface}.{member}")

    def _send(self, peer: tuple[str, str], interface: str, member: str, *arguments: str) -> None:
        """Send a call whose arguments are strings."""
        destination, path = peer
        fields = _field(_PATH, "o", path) + _field(_INTERFACE, "s", interface)
        fields += _field(_MEMBER, "s", member) + _field(_DESTINATION, "s", destination)
        body = b""
        if arguments:
            fields += _field(_SIGNATURE, "g", "s" * len(arguments))
        for argument in arguments:
            body = _pad(4, body) + _string(argument)
        # The last field is not padded, as far as the length of the fields is concerned.
        length = len(fields.rstrip(b"\0")) + 1
        head = struct.pack("<cBBBIII", b"l", _CALL, 0, 1, len(body), 1, length)
        self._socket.sendall(head + fields + body)

    def _message(self, deadline: float) -> int:
        """Read one message; returns its type. Raises TimeoutError at the monotonic deadline."""
        head = self._read(16, deadline)
        byte_order = "<" if head[:1] == b"l" else ">"
        body, _serial, fields = struct.unpack(f"{byte_order}III", head[4:])
        self._read(-(-fields // 8) * 8 + body, deadline)
        return head[1]

    def _read(self, count: int, deadline: float) -> bytes:
        data = b""
        while len(data) < count:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self._socket.settimeout(left)
            chunk = self._socket.recv(count - len(data))
            if not chunk:
                raise RigError("the bus hung up")
            data += chunk
        return data


def _field(number: int, kind: str, value: str) -> bytes:
    head = struct.pack("<BB2s", number, 1, kind.encode() + b"\0")
    if kind == "g":
        return _pad(8, head + struct.pack("<B", len(value)) + value.encode() + b"\0")
    return _pad(8, head + _string(value))


def _string(value: str) -> bytes:
    data = value.encode()
    return struct.pack("<I", len(data)) + data + b"\0"


def _pad(alignment: int, data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % alignment)


def _escape(unit: str) -> str:
    """A unit's name as systemd writes it in bus paths."""
    return "".join(c if c.isascii() and c.isalnum() else f"_{ord(c):02x}" for c in unit)
