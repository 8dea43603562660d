#!/usr/bin/env python3
"""How long `systemctl start` takes on a booted device: device_start.py DEB... OUTPUT.

Each release boots in a container (packaging/rig.py says what that needs).  graced.service, whose
start returns when clients are served, takes turns with a unit that only executes sleep(1), which
is what systemd itself takes.  The output is for `bench.py --device`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "packaging"))

from rigging import CONTAINERS, machine

STARTS = 21
UNITS = {"graced": "graced", "sleep": "baseline"}
BASELINE = "[Service]\nType=exec\nExecStart=/usr/bin/sleep infinity\n"
MEASURE = """
import subprocess, sys, time
for unit in sys.argv[2:]:
    subprocess.run(["systemctl", "stop", unit], check=True)
for _ in range(int(sys.argv[1])):
    for unit in sys.argv[2:]:
        begun = time.monotonic()
        subprocess.run(["systemctl", "start", unit], check=True)
        print(unit, 1000 * (time.monotonic() - begun))
        subprocess.run(["systemctl", "stop", unit], check=True)
"""


def starts(release: str, debs: list[Path]) -> dict[str, list[dict[str, object]]]:
    """Milliseconds of each start, by server."""
    with machine(release) as device:
        device.install(*debs)
        device.write("/run/systemd/system/baseline.service", BASELINE)
        device.systemctl("daemon-reload")
        lines = device.python(MEASURE, str(STARTS), *UNITS.values()).splitlines()
    taken = [line.split() for line in lines]
    return {
        name: [{"values": {"ms": float(ms)}, "others": 0.0} for unit, ms in taken if unit == of]
        for name, of in UNITS.items()
    }


def main() -> None:
    """The command."""
    *debs, output = map(Path, sys.argv[1:])
    results = {f"systemctl start {release}": starts(release, debs) for release in CONTAINERS}
    output.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
