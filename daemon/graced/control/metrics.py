"""The answer of ``Metrics``: numbers for a monitoring system, by the conventions of Prometheus.

The names are an interface: alert rules have them.  Numbers that only grow go on over a restart.
"""

from __future__ import annotations

from itertools import accumulate

from graced import __version__
from graced.control import report
from graced.process.tallies import HANDOVER_BOUNDS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from graced.control.subject import Subject

    Value = tuple[dict[str, str], float]
    """The labels of a number besides the name of the service, and the number."""

SERVICE = "service"
"""The label of all numbers: a machine may have several services."""


def metrics(subject: Subject) -> list[dict[str, Any]]:
    """The parameter ``metrics`` of the reply."""
    return [_with_service(each, subject.name) for each in _all(subject)]


def _with_service(metric: dict[str, Any], name: str) -> dict[str, Any]:
    for sample in metric["samples"]:
        sample["labels"] = {SERVICE: name, **sample["labels"]}
    return metric


def _all(subject: Subject) -> Iterator[dict[str, Any]]:
    server = subject.server
    yield _info("graced_build", {"version": __version__, "handler": subject.handler})
    yield _gauge("graced_up", "Whether the service answers.", 1)
    began = report.began_at(subject)
    yield _gauge("graced_start_time_seconds", "When the process began to serve.", began, "seconds")
    draining = int(server.deadline is not None)
    yield _gauge("graced_draining", "Whether the service is going offline.", draining)
    yield _gauge("graced_clients", "Clients now.", server.clients)
    waiting = server.waiting
    yield _gauge("graced_clients_waiting", "Clients that wait for a thread of a handler.", waiting)
    yield _counter("graced_clients_admitted", "Clients so far.", [({}, server.admitted)])
    refused = [({"reason": reason}, count) for reason, count in report.refusals(subject).items()]
    yield _counter("graced_clients_refused", "Clients so far that were refused.", refused)
    yield _counter("graced_probes", "Clients so far without a byte.", [({}, server.probes)])
    text = "Bytes sent to clients so far."
    yield _counter("graced_sent_bytes", text, [({}, server.echoed)], "bytes")
    limits = report.limits_of(subject)
    for name, text, key in (
        ("graced_limit", "The most that there may be.", "most"),
        ("graced_limit_used", "How much of a limit is used.", "now"),
    ):
        yield _metric(name, "gauge", text, _samples(name, _by("limit", limits, key)))
    dropped, suppressed = subject.log.losses
    lost = [({"reason": "dropped"}, dropped), ({"reason": "suppressed"}, suppressed)]
    yield _counter("graced_log_records_lost", "Log records so far that are lost.", lost)
    yield _handovers(subject)


def _handovers(subject: Subject) -> dict[str, Any]:
    name, tallies = "graced_handover_seconds", subject.tallies
    counts = list(accumulate(tallies.handovers))
    bounds = [*map(str, HANDOVER_BOUNDS), "+Inf"]
    buckets = [({"le": bound}, count) for bound, count in zip(bounds, counts, strict=True)]
    samples = _samples(f"{name}_bucket", buckets)
    samples += _samples(f"{name}_count", [({}, counts[-1])])
    samples += _samples(f"{name}_sum", [({}, round(tallies.handover_seconds, 3))])
    text = "How long no client was served at a restart."
    return _metric(name, "histogram", text, samples, "seconds")


def _by(label: str, limits: Iterable[dict[str, Any]], key: str) -> list[Value]:
    return [({label: limit["name"]}, limit[key]) for limit in limits]


def _info(name: str, labels: dict[str, str]) -> dict[str, Any]:
    return _metric(name, "info", "What runs.", _samples(f"{name}_info", [(labels, 1)]))


def _gauge(name: str, text: str, value: float, unit: str = "") -> dict[str, Any]:
    return _metric(name, "gauge", text, _samples(name, [({}, value)]), unit)


def _counter(name: str, text: str, values: Iterable[Value], unit: str = "") -> dict[str, Any]:
    return _metric(name, "counter", text, _samples(f"{name}_total", values), unit)


def _samples(name: str, values: Iterable[Value]) -> list[dict[str, Any]]:
    return [{"name": name, "labels": labels, "value": value} for labels, value in values]


def _metric(
    name: str, kind: str, text: str, samples: list[dict[str, Any]], unit: str = ""
) -> dict[str, Any]:
    return {"name": name, "type": kind, "help": text, "unit": unit, "samples": samples}
