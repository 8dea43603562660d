"""What --check-config calls valid is served: settings in seconds at both ends of their ranges."""

from __future__ import annotations

from pathlib import Path
from signal import SIGINT, SIGTERM

import pytest

from graced.app.settings import SETTINGS
from support import Graced, run_graced

SMALLEST = {
    "server.keepalive_idle": "1e-9",
    "server.keepalive_interval": "1",
    "server.user_timeout": "1e-9",
    "shutdown.grace_period": "1e-9",
    "shutdown.farewell_gap": "1e-9",
    "shutdown.farewell_spread": "1e-10",
    "shutdown.lame_duck": "1e-9",
    "limits.stall_timeout": "1e-9",
}
LARGEST = {
    "server.keepalive_idle": "32767",
    "server.keepalive_interval": "32767",
    "server.user_timeout": "86400",
    "shutdown.grace_period": "86400",
    "shutdown.farewell_gap": "60",
    "shutdown.farewell_spread": "86399",
    "shutdown.lame_duck": "86400",
    "limits.idle_timeout": "31_536_000",
    "limits.stall_timeout": "86400",
}
ALMOST_WHOLE = {
    "server.keepalive_idle": "32766.9999999",
    "server.keepalive_interval": "1.0000001",
    "server.user_timeout": "86399.9999999",
    "shutdown.grace_period": "86399.9999999",
    "shutdown.farewell_gap": "59.9999999",
    "shutdown.farewell_spread": "86398.9999999",
    "shutdown.lame_duck": "86399.9999999",
    "limits.idle_timeout": "31_535_999.9999999",
    "limits.stall_timeout": "59.9999999",
}
HALF_A_MICROSECOND = {"limits.stall_timeout": "5e-7"}
ALL = [SMALLEST, LARGEST, ALMOST_WHOLE, HALF_A_MICROSECOND]
IDS = ["smallest", "largest", "almost whole", "half a microsecond"]


def toml(values: dict[str, str]) -> str:
    keys = [key.split(".") for key in values]
    return "\n".join(
        f"[{section}]\n" + "\n".join(f"{k} = {values[f'{s}.{k}']}" for s, k in keys if s == section)
        for section in dict.fromkeys(section for section, _ in keys)
    )


def test_all_settings_in_seconds_are_tried() -> None:
    in_seconds = {each.key for each in SETTINGS if each.unit.split(",")[0] == "s"}
    assert LARGEST.keys() == ALMOST_WHOLE.keys() == in_seconds
    # A client that may be silent for a nanosecond only is closed: below.
    assert SMALLEST.keys() == in_seconds - {"limits.idle_timeout"}


@pytest.mark.parametrize("values", ALL, ids=IDS)
def test_valid_configuration_is_served(
    values: dict[str, str], handler: str, tmp_path: Path
) -> None:
    (tmp_path / "graced.toml").write_text(toml(values))
    options = ("--config", str(tmp_path / "graced.toml"), "--handler", handler, "--check-config")
    found = run_graced(*options, "--listen", f"unix:{tmp_path}/socket")
    assert found.returncode == 0, found.stderr
    with Graced("--handler", handler, config=toml(values)) as graced:
        with graced.connect() as client:
            for _ in range(2):
                client.echo(b"hello")
        # The gap may be a minute, and a handler that waits for it ends with the grace period.
        graced.signal(SIGTERM)
        if "shutdown.lame_duck" in values:
            # It may be a day, and so may the grace period.
            graced.log.wait_for("the drain begins in")
            graced.signal(SIGINT)
            graced.log.wait_for("closing in")
        assert graced.stop(SIGINT) == 0
        assert not graced.log.count("exiting without waiting")


def test_shortest_idle_timeout_ends_clients_and_not_the_service(handler: str) -> None:
    with Graced("--handler", handler, config="[limits]\nidle_timeout = 1e-9") as graced:
        for _ in range(2):
            with graced.connect() as client:
                assert client.recv_to_end() == b""
        graced.log.wait_for("closing connection .*: idle", 2)
        assert graced.stop() == 0
