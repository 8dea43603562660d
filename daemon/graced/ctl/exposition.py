"""Metrics as text, in the two formats of Prometheus.

OpenMetrics is the newer one.  The directory of the node exporter is read in the older format, whose
reader fails on a type that it does not know.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n"})


def open_metrics(metrics: list[dict[str, Any]]) -> str:
    """The text in the format OpenMetrics 1.0.0."""
    lines: list[str] = []
    for metric in metrics:
        name = metric["name"]
        lines.append(f"# TYPE {name} {metric['type']}")
        if metric["unit"]:
            lines.append(f"# UNIT {name} {metric['unit']}")
        lines.append(f"# HELP {name} {metric['help']}")
        lines += _samples(metric)
    return "\n".join([*lines, "# EOF", ""])


def plain_text(metrics: list[dict[str, Any]]) -> str:
    """The text in the text format 0.0.4."""
    lines: list[str] = []
    for metric in metrics:
        name, kind = metric["name"], metric["type"]
        if kind == "counter":
            name = f"{name}_total"
        elif kind == "info":
            name, kind = f"{name}_info", "gauge"
        lines += [f"# HELP {name} {metric['help']}", f"# TYPE {name} {kind}", *_samples(metric)]
    return "\n".join([*lines, ""])


def _samples(metric: dict[str, Any]) -> Iterator[str]:
    for sample in metric["samples"]:
        labels = ",".join(
            f'{label}="{value.translate(_ESCAPES)}"' for label, value in sample["labels"].items()
        )
        yield f"{sample['name']}{{{labels}}} {sample['value']}"
