#!/usr/bin/env python3
"""What graced costs on a small device: small_device.py MACHINE DEB...

Boots a machine of packaging/rig.py, installs the packages, and prints the figures of
docs/benchmarks.md, as ratios to ``python3 -c pass`` on the same machine: seconds of an emulated
processor mean nothing. At the end it boots with less and less memory, each time with clients that
never read.
"""

from __future__ import annotations

import contextlib
import json
import socket
import statistics
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "packaging"))

from rigging import TARGETS, Device, RigError, VirtualMachine

PORT = 9999
RESTARTS = 7
GREEDY = 200
MEMORY = (256, 128, 96)
"""MB of the machine."""
BASELINE = "[Service]\nType=exec\nExecStart=/usr/bin/sleep infinity\n"

# On the device; each figure is a median, in seconds.
MEASURE = """
import json, os, re, statistics, subprocess, time
def run(*argv):
    subprocess.run(argv, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
def seconds(*argv, times=7, before=()):
    taken = []
    for _ in range(times):
        for command in before:
            run(*command)
        begun = time.monotonic()
        run(*argv)
        taken.append(time.monotonic() - begun)
    return statistics.median(taken)
def imports(*argv):
    shown = subprocess.run(argv, stderr=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL,
                           stdout=subprocess.DEVNULL).stderr
    found = re.findall(r"import time: +([0-9]+) [|] +[0-9]+ [|] +([a-zA-Z0-9_.]+)", shown)
    return {name: int(micro) / 1e6 for micro, name in found}
cold = ["sh", "-c", "sync; echo 3 >/proc/sys/vm/drop_caches"]
stop = ["systemctl", "stop", "graced.service"]
bare = imports("python3", "-I", "-X", "importtime", "-c", "pass")
shares = {"graced": 0, "python-daemon and sdnotify": 0, "standard library": 0}
program = ["python3", "-I", "-X", "importtime", "/usr/sbin/graced", "--check-config"]
for name, taken in imports(*program).items():
    if name in bare:
        continue
    top = name.partition(".")[0]
    if top == "graced":
        shares["graced"] += taken
    elif top in ("daemon", "sdnotify", "lockfile"):
        shares["python-daemon and sdnotify"] += taken
    else:
        shares["standard library"] += taken
result = {
    "python3 -c pass": seconds("python3", "-c", "pass", times=15),
    "graced --check-config": seconds("graced", "--check-config"),
    "systemctl start, sleep": seconds("systemctl", "start", "baseline.service",
                                      before=[["systemctl", "stop", "baseline.service"]]),
    "systemctl start, graced": seconds("systemctl", "start", "graced.service", before=[stop]),
    "python3 -c pass, cold": seconds("python3", "-c", "pass", times=3, before=[cold]),
    "systemctl start, graced, cold": seconds("systemctl", "start", "graced.service", times=3,
                                             before=[stop, cold]),
}
result.update({f"imports: {name}": taken for name, taken in shares.items()})
print(json.dumps(result))
"""


def main() -> None:
    """The command."""
    name, *debs = sys.argv[1:]
    target = TARGETS[name]
    with VirtualMachine(target) as machine:
        machine.install(*map(Path, debs))
        machine.write("/run/systemd/system/baseline.service", BASELINE)
        machine.systemctl("daemon-reload")
        figures = json.loads(machine.python(MEASURE, timeout=900))
        machine.systemctl("start", "graced.service")
        figures["pause of a client at a restart"] = statistics.median(pauses(machine))
        one = figures["python3 -c pass"]
        print(f"{name}, {machine.accelerator}; python3 -c pass is 1 ({one:.3f} s here)")
        for figure, seconds in figures.items():
            print(f"  {figure:40} {seconds / one:6.2f}")
        print(f"  resident: {resident(machine) / 1024:.1f} MB")
    for memory in MEMORY:
        print(f"{name} with {memory} MB: {hoarded(target.name, memory, debs)}", flush=True)


def resident(machine: Device) -> int:
    """kB of the daemon."""
    pid = machine.show("graced.service", "MainPID")["MainPID"]
    status = machine.read(f"/proc/{pid}/status").splitlines()
    return int(next(line.split()[1] for line in status if line.startswith("VmRSS:")))


def pauses(machine: Device) -> list[float]:
    """The longest round trip of a client over each restart, in seconds."""
    longest = []
    with machine.connect(PORT) as client:
        for _ in range(RESTARTS):
            ending = threading.Event()
            trips: list[float] = []
            thread = threading.Thread(target=ping, args=(client, ending, trips))
            thread.start()
            machine.systemctl("restart", "graced.service")
            ending.set()
            thread.join()
            longest.append(max(trips))
    return longest


def ping(client: socket.socket, ending: threading.Event, trips: list[float]) -> None:
    """Round trips, one after the other; at least one begins when ``ending`` is set already."""
    last = False
    while not last:
        last = ending.is_set()
        begun = time.monotonic()
        client.sendall(b"ping")
        heard = b""
        while len(heard) < 4:
            more = client.recv(64)
            if not more:
                raise EOFError("the server has closed the connection")
            heard += more
        trips.append(time.monotonic() - begun)


def hoarded(name: str, memory: int, debs: list[str]) -> str:
    """What becomes of the service when clients send without end and never read."""
    clients: list[socket.socket] = []
    try:
        with VirtualMachine(TARGETS[name], memory=memory) as machine:
            machine.install(*map(Path, debs))
            before = machine.cursor()

            def make() -> None:
                for _ in range(GREEDY):
                    clients.append(socket.create_connection(("127.0.0.1", PORT), 30))

            machine.inside(make)
            for client in clients:
                client.settimeout(0.5)
                with contextlib.suppress(OSError):
                    while client.send(b"x" * 65536):
                        pass
            state = machine.show("graced.service", "NRestarts", "ActiveState", "MemoryPeak")
            killed = [
                record["MESSAGE"]
                for record in machine.journal("_TRANSPORT=kernel", after=before)
                if "Killed process" in record["MESSAGE"] or "Out of memory" in record["MESSAGE"]
            ]
            return f"{state}, resident {resident(machine) / 1024:.1f} MB, OOM killer: {killed}"
    except (RigError, OSError) as error:
        return f"no: {error}"
    finally:
        for client in clients:
            client.close()


if __name__ == "__main__":
    main()
