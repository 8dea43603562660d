"""Checks of values: what a setting may be, as written in TOML or as an option.

A check returns the value for `graced.app.settings.Settings`, or raises `ValueError` with the words
that follow the key: "must be ...".
"""

from __future__ import annotations

from graced.sockets.address import Address

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from graced.sockets.networks import Network

    Check = Callable[[Any], Any]

UNIX = "unix"
"""In place of a network, the clients of all Unix sockets."""
MAX_FAREWELL = 1024
"""Bytes."""


def seconds(low: float, high: float) -> Check:
    """A number of seconds from `low` to `high`."""

    def check(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError("must be a number of seconds")
        if not low <= value <= high:
            raise ValueError(f"must be from {low:g} to {high:g} seconds")
        return float(value)

    return check


def whole(low: int, high: int) -> Check:
    """A whole number from `low` to `high`."""

    def check(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError("must be a whole number")
        if not low <= value <= high:
            raise ValueError(f"must be from {low} to {high}")
        return value

    return check


def boolean(value: Any) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


def text(value: Any) -> str:
    """Text that is not empty."""
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError("must be a string that is not empty")
    return value


def file(value: Any) -> str:
    """The file of a certificate or key, see `graced.app.certificates`; empty: none."""
    if value == "":
        return ""
    path = text(value)
    if not path.startswith("/") and ("/" in path or path in {".", ".."}):
        raise ValueError("must be an absolute path, or the name of a credential")
    return path


def farewell(value: Any) -> bytes:
    """The bytes of a farewell."""
    if not isinstance(value, str):
        raise ValueError("must be a string")
    data = value.encode("utf-8", "surrogateescape")
    if len(data) > MAX_FAREWELL:
        raise ValueError(f"must be {MAX_FAREWELL} bytes at most")
    return data


def one_of(allowed: tuple[str, ...]) -> Check:
    """One of these words."""

    def check(value: Any) -> str:
        if value not in allowed:
            raise ValueError(f"must be one of {', '.join(allowed)}")
        return str(value)

    return check


def addresses(value: Any) -> tuple[Address, ...]:
    """Addresses to listen on: one, or a list."""
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list) or not value or not all(isinstance(v, str) for v in value):
        raise ValueError("must be an address or a list of addresses")
    found = tuple(Address.parse(text) for text in value)
    for address in found:
        address.check_is_for_listening()
    return found


def agent(value: Any) -> Address | None:
    """An address for agent checks; empty: none."""
    if not isinstance(value, str):
        raise ValueError("must be an address")
    if not value:
        return None
    address = Address.parse(value)
    if address.path or not address.port:
        raise ValueError("must be HOST:PORT, [IPV6]:PORT or *:PORT, with a port from 1 to 65535")
    address.check_is_for_listening()
    return address


def networks(value: Any) -> tuple[Network, ...]:
    """Networks: one, a list, or none."""
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
        raise ValueError("must be a network or a list of networks")
    if not value:
        return ()
    # Most configurations have no network, and need no module for it.
    from graced.sockets.networks import Network  # noqa: PLC0415

    found = {}
    for network in map(Network.parse, value):
        if network.key in found:
            raise ValueError(f"must name {network} once")
        found[network.key] = network
    return tuple(found.values())


def proxies(value: Any) -> tuple[Network | str, ...]:
    """Networks, and the word ``unix``."""
    written = [value] if isinstance(value, str) else value
    if not isinstance(written, list) or UNIX not in written:
        return networks(written)
    return (*networks([each for each in written if each != UNIX]), UNIX)
