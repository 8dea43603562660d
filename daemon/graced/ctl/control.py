"""The other end of the control socket: one call of a running service."""

from __future__ import annotations

import argparse
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

from graced.app.instance import Instance
from graced.control.varlink import SERVICE, Decoder, MalformedError, encode
from graced.errors import UsageError
from graced.sockets.timeout import set_timeout

CONTROL = "io.graced.Control"
TIMEOUT = 10.0
"""Seconds without a byte after which a service does not answer; news of a drain comes each second.
"""
LONGEST_REPLY = 1024 * 1024
"""Bytes."""
FAILED = 1
UNAVAILABLE = os.EX_UNAVAILABLE
NOT_PERMITTED = os.EX_NOPERM
STATUSES = (
    "Exit status: 0 success, 1 an answer that makes no sense, 2 usage, 69 the service does not run"
    " or does not answer, 77 not permitted."
)
"""For the help of each command."""
_READ_SIZE = 1 << 16


class ControlError(Exception):
    """A question that had no answer, explained by one line; `status` is the exit status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


def add_options(command: argparse.ArgumentParser) -> None:
    """Add the options of each command that asks a service."""
    command.add_argument(
        "--socket",
        metavar="PATH",
        help="the control socket (default: /run/graced/control, or that of the instance)",
    )
    command.add_argument("--json", action="store_true", help="print for programs")


class Connection:
    """A connection to the control socket of a service, as a context manager.  For one thread."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        """`arguments`: of the command line.  Raises `ControlError`."""
        self._instance: Instance = arguments.instance
        self._path: str = arguments.socket or self._instance.control_socket
        self._sock = socket.socket(socket.AF_UNIX)
        self._decoder = Decoder(LONGEST_REPLY)
        with self._explained():
            # A timeout of Python's would make the socket one that does not wait for its turn.
            set_timeout(self._sock, socket.SO_SNDTIMEO, TIMEOUT)
            self._sock.connect(self._path)
            self._sock.settimeout(TIMEOUT)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._sock.close()

    def ask(self, method: str, **parameters: Any) -> Iterator[dict[str, Any]]:
        """Call a method of `CONTROL`, and yield the parameters of each reply.

        Each call has to be finished before the next.  Raises `ControlError`.
        """
        call = {"method": f"{CONTROL}.{method}", "parameters": parameters, "more": True}
        with self._explained():
            self._sock.sendall(encode(call))
            yield from self._replies()

    def _replies(self) -> Iterator[dict[str, Any]]:
        while data := self._sock.recv(_READ_SIZE):
            self._decoder.feed(data)
            for message in self._decoder.messages():
                parameters = message.get("parameters") or {}
                if not isinstance(parameters, dict):
                    raise MalformedError("the parameters of a reply are not an object")
                if "error" in message:
                    raise _refused(str(message["error"]), parameters, self._path)
                yield parameters
                if not message.get("continues"):
                    return
        raise ControlError(f"the service at {self._path} has ended before its answer", UNAVAILABLE)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Close after an error, and make a `ControlError` of it."""
        try:
            yield
        except (OSError, MalformedError) as error:
            self._sock.close()
            raise self._explanation(error) from None

    def _explanation(self, error: Exception) -> ControlError:
        path = self._path
        match error:
            case FileNotFoundError() | ConnectionRefusedError():
                return ControlError(
                    f"{self._instance.full_name} does not run, or has no control socket: nobody"
                    f" answers at {path}",
                    UNAVAILABLE,
                )
            case PermissionError():
                return _not_permitted(path)
            case TimeoutError() | BlockingIOError():
                return ControlError(f"no answer at {path} for {TIMEOUT:g} s", UNAVAILABLE)
            case OSError():
                reason = error.strerror or str(error)
                return ControlError(f"cannot ask at {path}: {reason}", UNAVAILABLE)
        return ControlError(f"wrong answer at {path}: {error}", FAILED)


def ask(arguments: argparse.Namespace, method: str, **parameters: Any) -> Iterator[dict[str, Any]]:
    """Call one method, on a connection of its own: see `Connection`."""
    with Connection(arguments) as connection:
        yield from connection.ask(method, **parameters)


def _refused(name: str, parameters: dict[str, Any], path: str) -> ControlError:
    if name == f"{SERVICE}.PermissionDenied":
        return _not_permitted(path)
    if name == f"{SERVICE}.InvalidParameter":
        return ControlError(f"wrong value of --{parameters.get('parameter')}", UsageError.status)
    details = ", ".join(f"{key} {value}" for key, value in parameters.items())
    return ControlError(f"{path}: {name}{f' ({details})' if details else ''}", FAILED)


def _not_permitted(path: str) -> ControlError:
    return ControlError(f"not permitted to ask at {path}: be root or in its group", NOT_PERMITTED)
