"""The properties of a unit, from a script in place of systemctl(1)."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from graced.app import unit

SHOWN = """\
LoadState=loaded
ActiveState=active
MainPID=4711
User=graced
Group=graced
SupplementaryGroups=video audio
LimitNOFILE=4608
TasksMax=320
AmbientCapabilities=
PrivateNetwork=no
RuntimeDirectory=graced other
TriggeredBy=graced.socket graced.timer
Requires=system.slice sysinit.target
ExecStart={ path=/usr/sbin/graced ; argv[]=/usr/sbin/graced --daemon -g 60 ; ignore_errors=no ; }
"""


@pytest.fixture
def systemctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of files named like units, with the output of systemctl."""
    script = tmp_path / "systemctl"
    script.write_text(f'#!/bin/sh\nfor unit; do :; done\n/bin/cat "{tmp_path}/$unit"\n')
    script.chmod(0o755)
    # Nothing else: the machine's own systemctl is tried where this file cannot be run.
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(unit, "_BOOTED", str(tmp_path))
    (tmp_path / "graced.socket").write_text("LoadState=loaded\nActiveState=inactive\n")
    return tmp_path


def test_unit_is_read(systemctl: Path) -> None:
    (systemctl / "graced.service").write_text(SHOWN)
    assert unit.find() == unit.Unit(
        name="graced.service",
        pid=4711,
        user="graced",
        group="graced",
        groups=["video", "audio"],
        descriptors=4608,
        tasks=320,
        runtime_directories=["/run/graced", "/run/other"],
        binds_low_ports=False,
        private_network=False,
        sockets="",
        options=["--daemon", "-g", "60"],
    )


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        ("LimitNOFILE=infinity", "descriptors", resource.RLIM_INFINITY),
        ("LimitNOFILE=18446744073709551615", "descriptors", resource.RLIM_INFINITY),
        ("TasksMax=infinity", "tasks", 0),
        ("AmbientCapabilities=cap_net_bind_service", "binds_low_ports", True),
        ("PrivateNetwork=yes", "private_network", True),
        ("User=", "user", ""),
        ("MainPID=0", "pid", 0),
        ("Requires=graced.socket", "sockets", "graced.socket"),
        ("ExecStart=", "options", []),
    ],
)
def test_property_is_read(line: str, name: str, value: object, systemctl: Path) -> None:
    key = line.partition("=")[0]
    lines = [line if shown.startswith(f"{key}=") else shown for shown in SHOWN.splitlines()]
    (systemctl / "graced.service").write_text("\n".join(lines))
    assert getattr(unit.find(), name) == value


def test_active_socket_unit_passes_the_listeners(systemctl: Path) -> None:
    (systemctl / "graced.service").write_text(SHOWN)
    (systemctl / "graced.socket").write_text("ActiveState=active\n")
    found = unit.find()
    assert found
    assert found.sockets == "graced.socket"


@pytest.mark.parametrize("shown", ["", "LoadState=not-found\n", "LoadState=masked\n"])
def test_unit_that_is_not_loaded_is_none(shown: str, systemctl: Path) -> None:
    (systemctl / "graced.service").write_text(shown)
    assert unit.find() is None


@pytest.mark.parametrize("script", ["#!/bin/sh\nexit 1\n", "#!/no/such/interpreter\n", None])
def test_systemctl_that_fails_is_no_unit(script: str | None, systemctl: Path) -> None:
    if script:
        (systemctl / "systemctl").write_text(script)
    failures: list[str] = []
    assert unit.find(failures=failures) is None
    assert failures == ["user, limits and addresses of graced.service: systemctl does not answer"]


def test_machine_without_systemd_has_no_unit(
    systemctl: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (systemctl / "graced.service").write_text(SHOWN)
    monkeypatch.setattr(unit, "_BOOTED", str(systemctl / "missing"))
    assert unit.find() is None


def test_systemctl_that_hangs_is_no_unit(systemctl: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (systemctl / "systemctl").write_text("#!/bin/sh\nexec /bin/sleep 1000\n")
    monkeypatch.setattr(unit, "QUERY_TIMEOUT", 0.2)
    assert unit.find() is None
