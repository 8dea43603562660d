"""The other end of the control socket: one call of a running service."""

from __future__ import annotations

import argparse
import os
import socket
from collections.abc import Iterator
from typing import Any

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


def ask(arguments: argparse.Namespace, method: str, **parameters: Any) -> Iterator[dict[str, Any]]:
    """Call a method of `CONTROL`, and yield the parameters of each reply.

    `arguments`: of the command line.  Raises `ControlError`.
    """
    instance: Instance = arguments.instance
    path = arguments.socket or instance.control_socket
    call = {"method": f"{CONTROL}.{method}", "parameters": parameters, "more": True}
    with socket.socket(socket.AF_UNIX) as sock:
        # A timeout of Python's would make the socket one that does not wait for its turn.
        set_timeout(sock, socket.SO_SNDTIMEO, TIMEOUT)
        try:
            sock.connect(path)
            sock.settimeout(TIMEOUT)
            sock.sendall(encode(call))
            yield from _replies(sock, path)
        except (FileNotFoundError, ConnectionRefusedError):
            raise ControlError(
                f"{instance.full_name} does not run, or has no control socket: nobody answers at"
                f" {path}",
                UNAVAILABLE,
            ) from None
        except PermissionError:
            raise _not_permitted(path) from None
        except (TimeoutError, BlockingIOError):
            raise ControlError(f"no answer at {path} for {TIMEOUT:g} s", UNAVAILABLE) from None
        except OSError as error:
            reason = error.strerror or str(error)
            raise ControlError(f"cannot ask at {path}: {reason}", UNAVAILABLE) from None
        except MalformedError as error:
            raise ControlError(f"wrong answer at {path}: {error}", FAILED) from None


def _replies(sock: socket.socket, path: str) -> Iterator[dict[str, Any]]:
    decoder = Decoder(LONGEST_REPLY)
    while data := sock.recv(_READ_SIZE):
        decoder.feed(data)
        for message in decoder.messages():
            parameters = message.get("parameters") or {}
            if not isinstance(parameters, dict):
                raise MalformedError("the parameters of a reply are not an object")
            if "error" in message:
                raise _refused(str(message["error"]), parameters, path)
            yield parameters
            if not message.get("continues"):
                return
    raise ControlError(f"the service at {path} has ended before its answer", UNAVAILABLE)


def _refused(name: str, parameters: dict[str, Any], path: str) -> ControlError:
    if name == f"{SERVICE}.PermissionDenied":
        return _not_permitted(path)
    if name == f"{SERVICE}.InvalidParameter":
        return ControlError(f"wrong value of --{parameters.get('parameter')}", UsageError.status)
    details = ", ".join(f"{key} {value}" for key, value in parameters.items())
    return ControlError(f"{path}: {name}{f' ({details})' if details else ''}", FAILED)


def _not_permitted(path: str) -> ControlError:
    return ControlError(f"not permitted to ask at {path}: be root or in its group", NOT_PERMITTED)
