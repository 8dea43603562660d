"""The methods of the control socket: ``org.varlink.service`` and ``io.graced.Control``.

The descriptions of both are in the files beside this module, as a caller gets them.
"""

from __future__ import annotations

import os
from math import inf
from time import monotonic

from graced import __version__
from graced.control import log_level, metrics, report, roll
from graced.control.filters import FILTERS, check_names, filter_of, invalid
from graced.control.varlink import SERVICE, VarlinkError
from graced.log import events

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from graced.control.rights import Rights
    from graced.control.subject import Subject
    from graced.control.varlink import Call

    Replies = Iterator[tuple[dict[str, Any] | None, bool]]
    """The parameters of each reply, and whether others follow; None: there is no news yet."""
    Method = Callable[[Call, Rights], Replies]

CONTROL = "io.graced.Control"
INTERFACES = (CONTROL, SERVICE)
ACTS = frozenset(
    f"{CONTROL}.{name}"
    for name in ("CloseClients", "Drain", "Reload", "SetLogLevel", "TellClients")
)
"""The methods that need more than the right to look."""
PROGRESS_INTERVAL = 1.0
"""Seconds between two replies about a drain or a reload in which nothing happens."""
BY_OPERATOR = "closed by an operator"
"""The reason in the log for a client that an operator has closed."""
URL = "man:gracectl(1)"
"""Where a reader finds more."""


def description(interface: str) -> str:
    """The description of one of `INTERFACES`.  Raises `OSError`."""
    path = os.path.join(os.path.dirname(__file__), f"{interface}.varlink")
    with open(path, encoding="utf-8") as file:
        return file.read()


def _choice_of(call: Call) -> Callable[[dict[str, Any]], bool]:
    """The filter of a call that does something to clients.  Raises `VarlinkError`."""
    passes = filter_of(call.parameters)
    if all(call.parameters.get(name) is None for name in FILTERS):
        # All clients by mistake: a stop is what says goodbye to all.
        raise invalid("client")
    return passes


class Interface:
    """Answers calls.  For the control thread."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._methods: dict[str, Method] = {
            f"{SERVICE}.GetInfo": self._get_info,
            f"{SERVICE}.GetInterfaceDescription": self._get_description,
            f"{CONTROL}.Status": self._status,
            f"{CONTROL}.Metrics": self._metrics,
            f"{CONTROL}.ListClients": self._list_clients,
            f"{CONTROL}.CloseClients": self._close_clients,
            f"{CONTROL}.TellClients": self._tell_clients,
            f"{CONTROL}.SetLogLevel": self._set_log_level,
            f"{CONTROL}.Drain": self._drain,
            f"{CONTROL}.Reload": self._reload,
        }

    def answer(self, call: Call, rights: Rights) -> Replies:
        """Yield the replies to a call.  Raises `VarlinkError`, maybe after some of them."""
        if not rights.may_look:
            raise VarlinkError(f"{SERVICE}.PermissionDenied")
        method = self._methods.get(call.method)
        if method is None:
            interface = call.method.rpartition(".")[0]
            if interface in INTERFACES:
                raise VarlinkError(f"{SERVICE}.MethodNotFound", method=call.method)
            raise VarlinkError(f"{SERVICE}.InterfaceNotFound", interface=interface)
        if call.method in ACTS and not rights.may_act:
            raise VarlinkError(f"{SERVICE}.PermissionDenied")
        yield from method(call, rights)

    def _get_info(self, call: Call, _rights: Rights) -> Replies:
        check_names(call.parameters)
        yield (
            {
                "vendor": "graced",
                "product": self._subject.name,
                "version": __version__,
                "url": URL,
                "interfaces": list(INTERFACES),
            },
            False,
        )

    def _get_description(self, call: Call, _rights: Rights) -> Replies:
        check_names(call.parameters, "interface")
        name = call.parameters.get("interface")
        if not isinstance(name, str):
            raise invalid("interface")
        if name not in INTERFACES:
            raise VarlinkError(f"{SERVICE}.InterfaceNotFound", interface=name)
        yield {"description": description(name)}, False

    def _status(self, call: Call, _rights: Rights) -> Replies:
        check_names(call.parameters)
        yield report.status(self._subject), False

    def _metrics(self, call: Call, _rights: Rights) -> Replies:
        check_names(call.parameters)
        yield {"metrics": metrics.metrics(self._subject)}, False

    def _list_clients(self, call: Call, _rights: Rights) -> Replies:
        passes = filter_of(call.parameters)
        if not call.more:
            raise VarlinkError(f"{SERVICE}.ExpectedMore")
        for rows in roll.rows(self._subject.server, passes):
            if rows:
                yield {"clients": rows}, True
        yield {"clients": []}, False

    def _close_clients(self, call: Call, rights: Rights) -> Replies:
        passes = _choice_of(call)
        closed = roll.close(self._subject.server, passes, BY_OPERATOR)
        events.CLOSED_BY_OPERATOR(user=rights.user, clients=closed)
        yield {"closed": closed}, False

    def _tell_clients(self, call: Call, rights: Rights) -> Replies:
        passes = _choice_of(call)
        grace = self._subject.grace_period
        told = roll.tell(self._subject.server, passes, monotonic() + grace)
        events.TOLD_BY_OPERATOR(user=rights.user, clients=told, seconds=grace)
        yield {"told": told}, False

    def _set_log_level(self, call: Call, rights: Rights) -> Replies:
        check_names(call.parameters, "level")
        name = call.parameters.get("level")
        if name not in log_level.NAMES:
            raise invalid("level")
        yield {"before": log_level.set_level(self._subject, name, rights.user)}, False

    def _drain(self, call: Call, rights: Rights) -> Replies:
        check_names(call.parameters)
        subject = self._subject
        if subject.server.deadline is None:
            events.DRAIN_ORDERED(user=rights.user)
            subject.supervisor.hurry()
            subject.stop()
        last, said_at = None, -inf
        while True:
            found = report.progress(subject)
            numbers = found["clients"], found["departed"], found["closed"]
            if found["ended"] or not call.more:
                yield found, False
                return
            if numbers != last or monotonic() >= said_at + PROGRESS_INTERVAL:
                last, said_at = numbers, monotonic()
                yield found, True
            else:
                yield None, True

    def _reload(self, call: Call, rights: Rights) -> Replies:
        check_names(call.parameters)
        if not call.more:
            raise VarlinkError(f"{SERVICE}.ExpectedMore")
        if not self._subject.reload:
            raise VarlinkError(f"{CONTROL}.NoReload")
        events.RELOAD_ORDERED(user=rights.user)
        reload = self._subject.reload()
        said_at = -inf
        while not (found := report.outcome(reload))["ended"]:
            if monotonic() >= said_at + PROGRESS_INTERVAL:
                said_at = monotonic()
                yield found, True
            else:
                yield None, True
        yield found, False
