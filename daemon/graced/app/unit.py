"""A unit of systemd, as far as the unit decides whether a start is refused.

Read by systemctl(1), once for a check: no start imports this module.
"""

from __future__ import annotations

import os
import re
import resource
import subprocess
from pathlib import PurePosixPath
from types import SimpleNamespace

SERVICE = "graced.service"
QUERY_TIMEOUT = 5.0
"""Seconds."""
_BOOTED = "/run/systemd/system"
"""sd_booted(3)."""
_PROPERTIES = (
    "LoadState",
    "ActiveState",
    "MainPID",
    "User",
    "Group",
    "SupplementaryGroups",
    "LimitNOFILE",
    "TasksMax",
    "AmbientCapabilities",
    "PrivateNetwork",
    "RuntimeDirectory",
    "TriggeredBy",
    "Requires",
    "ExecStart",
)


class Unit(SimpleNamespace):
    """A service unit that is loaded."""

    name: str
    pid: int
    """Of the main process; 0: the service does not run."""
    user: str
    """Empty: root."""
    group: str
    """Empty: the user's own."""
    groups: list[str]
    descriptors: int
    """The limit of file descriptors, or `resource.RLIM_INFINITY`."""
    tasks: int
    """The limit of threads and processes; 0: none."""
    runtime_directories: list[str]
    """Paths that systemd creates before it starts the service."""
    binds_low_ports: bool
    private_network: bool
    sockets: str
    """The socket unit that passes listening sockets to the service; empty: none."""
    options: list[str]
    """Options in ``ExecStart=``."""


def find(name: str = SERVICE, failures: list[str] | None = None) -> Unit | None:
    """The unit, or None if there is none or systemctl(1) cannot say, which `failures` gets."""
    if not os.path.isdir(_BOOTED):
        return None
    shown = _show(name)
    if not shown and failures is not None:
        failures.append(f"user, limits and addresses of {name}: systemctl does not answer")
    if shown.get("LoadState") != "loaded":
        return None
    pid = shown["MainPID"]
    return Unit(
        name=name,
        pid=int(pid) if pid.isdigit() else 0,
        user=shown["User"],
        group=shown["Group"],
        groups=shown["SupplementaryGroups"].split(),
        descriptors=_limit(shown["LimitNOFILE"], resource.RLIM_INFINITY),
        tasks=_limit(shown["TasksMax"], 0),
        runtime_directories=[f"/run/{name}" for name in shown["RuntimeDirectory"].split()],
        binds_low_ports="cap_net_bind_service" in shown["AmbientCapabilities"].lower(),
        private_network=shown["PrivateNetwork"] == "yes",
        sockets=_sockets(shown),
        options=_options(shown["ExecStart"]),
    )


def own_name() -> str:
    """The service that this process belongs to, by its control group; empty: none."""
    try:
        with open("/proc/self/cgroup", encoding="utf-8", errors="replace") as file:
            groups = [line.rstrip("\n").split(":", 2)[-1] for line in file]
    except OSError:
        return ""
    units = [part for group in groups for part in PurePosixPath(group).parts]
    return next((unit for unit in reversed(units) if unit.endswith(".service")), "")


def _show(name: str) -> dict[str, str]:
    command = ["systemctl", "show", f"--property={','.join(_PROPERTIES)}", "--", name]
    try:
        shown = subprocess.run(  # noqa: S603
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=QUERY_TIMEOUT,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    pairs = [line.partition("=") for line in shown.splitlines()]
    return dict.fromkeys(_PROPERTIES, "") | {name: value for name, _, value in pairs}


def _limit(text: str, without: int) -> int:
    return int(text) if text.isdigit() and int(text) < 2**63 else without


def _sockets(shown: dict[str, str]) -> str:
    """The socket unit that is active, or that a start of the service activates."""
    required = shown["Requires"].split()
    for name in shown["TriggeredBy"].split():
        if name.endswith(".socket") and (
            name in required or _show(name).get("ActiveState") == "active"
        ):
            return name
    return ""


def _options(shown: str) -> list[str]:
    command = re.search(r"argv\[\]=(.*?) ; ", shown)
    return command[1].split()[1:] if command else []
