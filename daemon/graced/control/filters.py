"""Filters: which clients an operator asks for."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from math import isfinite

from graced.control.roll import IN_HANDLER, PHASES
from graced.control.varlink import SERVICE, VarlinkError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def invalid(parameter: str) -> VarlinkError:
    """The error for a parameter that is unknown or has a wrong value."""
    return VarlinkError(f"{SERVICE}.InvalidParameter", parameter=parameter)


def check_names(parameters: dict[str, Any], *known: str) -> None:
    """Raise `VarlinkError` for a parameter that the method does not have."""
    for name in parameters:
        if name not in known:
            raise invalid(name)


FILTERS = ("client", "host", "phase", "idle")
"""The parameters that choose clients."""


def filter_of(parameters: dict[str, Any]) -> Callable[[dict[str, Any]], bool]:
    """The filter that a method is called with.  Raises `VarlinkError`."""
    check_names(parameters, *FILTERS)
    name, host, wanted, idle = (parameters.get(each) for each in FILTERS)
    if not (name is None or isinstance(name, str)):
        raise invalid("client")
    if not (wanted is None or wanted in [*PHASES.values(), IN_HANDLER]):
        raise invalid("phase")
    if idle is not None and not _is_seconds(idle):
        raise invalid("idle")
    network = None if host is None else _network(host)

    def passes(row: dict[str, Any]) -> bool:
        if name is not None and row["client"] != name:
            return False
        if wanted is not None and row["phase"] != wanted:
            return False
        if idle is not None and row["idle"] < idle:
            return False
        return network is None or (row["kind"] != "unix" and _address(row["client"]) in network)

    return passes


def _is_seconds(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and isfinite(value) and value >= 0


def _network(host: Any) -> Any:
    try:
        return ip_network(host if isinstance(host, str) else "", strict=False)
    except ValueError:
        raise invalid("host") from None


def _address(client: str) -> Any:
    """The address of ``HOST:PORT`` or ``[HOST]:PORT``."""
    host = client.rpartition(":")[0]
    return ip_address(host.strip("[]"))
