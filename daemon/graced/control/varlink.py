"""Messages of varlink (https://varlink.org): JSON objects, each ended by a NUL byte.

For both sides of a connection.  A peer may send anything, so a message is checked here once, and
the result has the right types.
"""

from __future__ import annotations

import json
from types import SimpleNamespace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

SERVICE = "org.varlink.service"
"""The interface that each varlink service has, with the errors of all."""
MAX_CALL = 64 * 1024
"""Bytes of a call, at most; more are an error, as a peer could otherwise take all memory."""
_END = b"\0"


class MalformedError(ValueError):
    """The bytes are no message of varlink.  The connection cannot be used any more."""


class VarlinkError(Exception):
    """An error that a reply reports: a full name, with an interface, and its parameters."""

    def __init__(self, name: str, **parameters: Any) -> None:
        super().__init__(name)
        self.name = name
        self.parameters = parameters


class Call(SimpleNamespace):
    """A call of a method."""

    method: str
    """With the name of its interface."""
    parameters: dict[str, Any]
    more: bool
    """Whether the caller takes several replies."""
    oneway: bool
    """Whether the caller takes no reply."""


class Decoder:
    """Cuts a stream of bytes into JSON objects.  For one thread."""

    def __init__(self, longest: int = MAX_CALL) -> None:
        """`longest`: bytes of a message, at most."""
        self._longest = longest
        self._buffer = bytearray()

    @property
    def pending(self) -> bool:
        """Whether there are bytes that no message has taken yet."""
        return bool(self._buffer)

    def feed(self, data: bytes) -> None:
        """Take bytes of the stream; call `messages` next."""
        self._buffer += data

    def messages(self) -> Iterator[dict[str, Any]]:
        """Yield the objects that are complete.  Raises `MalformedError`."""
        while (end := self._buffer.find(_END)) >= 0:
            text = bytes(self._buffer[:end])
            del self._buffer[: end + 1]
            yield self._object(text)
        if len(self._buffer) > self._longest:
            raise MalformedError(f"a message has more than {self._longest} bytes")

    def _object(self, text: bytes) -> dict[str, Any]:
        if len(text) > self._longest:
            raise MalformedError(f"a message has more than {self._longest} bytes")
        try:
            found = json.loads(text.decode("utf-8"), parse_constant=_refuse)
        except RecursionError:
            raise MalformedError("a message is nested too deeply") from None
        except ValueError as error:
            raise MalformedError(f"a message is not JSON: {error}") from None
        if not isinstance(found, dict):
            raise MalformedError("a message is not an object")
        return found


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number of JSON")


def encode(message: dict[str, Any]) -> bytes:
    """A message as bytes."""
    return json.dumps(message, separators=(",", ":")).encode("ascii") + _END


def call_of(message: dict[str, Any]) -> Call:
    """The call that a message makes.  Raises `MalformedError`."""
    method, parameters = message.get("method"), message.get("parameters")
    if not isinstance(method, str):
        raise MalformedError("a call names no method")
    if parameters is None:
        parameters = {}
    if not isinstance(parameters, dict):
        raise MalformedError("the parameters of a call are not an object")
    flags = {name: message.get(name) for name in ("more", "oneway", "upgrade")}
    for name, value in flags.items():
        if not (value is None or isinstance(value, bool)):
            raise MalformedError(f"{name!r} of a call is neither true nor false")
    if flags["upgrade"]:
        raise MalformedError("no method of this service is upgraded to another protocol")
    return Call(
        method=method,
        parameters=parameters,
        more=bool(flags["more"]),
        oneway=bool(flags["oneway"]),
    )


def reply(parameters: dict[str, Any], *, continues: bool = False) -> bytes:
    """A reply as bytes; `continues`: further replies to the same call follow."""
    message: dict[str, Any] = {"parameters": parameters}
    if continues:
        message["continues"] = True
    return encode(message)


def error_reply(error: VarlinkError) -> bytes:
    """The reply that reports an error, as bytes."""
    return encode({"error": error.name, "parameters": error.parameters})
