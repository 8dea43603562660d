"""HAProxy before the graced of several devices, with the files that the documentation shows."""

from __future__ import annotations

import csv
import os
import socket
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from support.attempts import attempts
from support.client import Client
from support.log import PATIENCE, Log
from support.process import CHECKOUT, Graced

FLEET = CHECKOUT / "docs" / "fleet"
NETWORK = f"127.{100 + os.getpid() // 256 % 100}.{os.getpid() % 256}"
"""Addresses of this machine that no other test uses: the ports are those of the documentation."""
SERVICE = f"{NETWORK}.9"
DEVICES = [f"{NETWORK}.{number}" for number in (1, 2, 3)]
AGENT_PORT = 9998


def settings(device: str, changes: Mapping[str, str]) -> str:
    """The configuration of a device, for this machine; `changes`: of what stands there."""
    text = (FLEET / "graced.toml").read_text()
    changed = {
        'listen = ["*:9999"]': f'listen = ["{device}:9999"]',
        'agent = "*:9998"': f'agent = "{device}:{AGENT_PORT}"',
        'proxy_protocol = ["192.0.2.1"]': 'proxy_protocol = ["127.0.0.1"]',
        'allow = ["192.0.2.0/24"]': 'allow = ["127.0.0.0/8"]',
    }
    for before, after in {**changed, **changes}.items():
        assert text.count(before) == 1, before
        text = text.replace(before, after)
    return text


def device(number: int, changes: Mapping[str, str] | None = None, **more: Any) -> Graced:
    """The graced of a device, not started yet; `more`: arguments of `Graced`."""
    return Graced(listen=(), config=settings(DEVICES[number], changes or {}), **more)


class HAProxy:
    """In the foreground: entered when clients can connect, as a context manager."""

    def __init__(self) -> None:
        self._listener = socket.create_server((SERVICE, 0), backlog=1024)
        self._port = self._listener.getsockname()[1]
        self._directory = tempfile.TemporaryDirectory(prefix="graced-")
        self._statistics = Path(self._directory.name) / "statistics"
        self._more = Path(self._directory.name) / "more.cfg"
        self._more.write_text(f"global\n    stats socket {self._statistics}\n")

    def __enter__(self) -> Self:
        read, write = os.pipe()
        # Clients that connect before it is ready wait.
        listener = self._listener.fileno()
        names = {f"DEVICE_{number}": each for number, each in enumerate(DEVICES, 1)}
        try:
            self._process = subprocess.Popen(
                ["haproxy", "-db", "-f", str(FLEET / "haproxy.cfg"), "-f", str(self._more)],
                env={"PATH": os.environ["PATH"], "SERVICE": f"fd@{listener}", **names},
                pass_fds=[listener],
                stdin=subprocess.DEVNULL,
                stdout=write,
                stderr=write,
            )
        except BaseException:
            os.close(read)
            raise
        finally:
            os.close(write)
            self._listener.close()
        self.log = Log.of_pipe(read)
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        failure: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait(PATIENCE)
        self.log.close()
        self._directory.cleanup()
        if failure is not None:
            failure.add_note(f"what HAProxy has said:\n{self.log}")

    def connect(self, source: str = "127.0.0.1") -> Client:
        """A client of the service, from an address of this machine."""
        address = (SERVICE, self._port)
        return Client(socket.create_connection(address, PATIENCE, source_address=(source, 0)))

    def wait_for_weight(self, server: str, weight: int) -> None:
        """Until an agent check has changed it."""
        for _ in attempts(f"weight {weight} of {server}"):
            if self._row(server).get("weight") == str(weight):
                break

    def _row(self, server: str) -> dict[str, str]:
        """What HAProxy says of a server; nothing: it is not there yet."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(PATIENCE)
            if sock.connect_ex(str(self._statistics)):
                return {}
            sock.sendall(b"show stat\n")
            with sock.makefile() as file:
                rows = list(csv.DictReader(file))
        return next(row for row in rows if row["svname"] == server)
