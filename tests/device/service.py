"""graced.service on a device, as a test wants it: reset, configured, asked."""

import re
import socket
from collections.abc import Callable

from rigging import Device, Record
from rigging.bus import UnitWatch
from rigging.device import JournalStream
from rigging.errors import PATIENCE

UNIT = "graced.service"
SOCKET_UNIT = "graced.socket"
PORT = 9999
PID_FILE = "/run/graced/graced.pid"
FAREWELL = b"SHUTDOWN"

# What the records are known by, whatever their wording (systemd/graced.catalog).
STARTED = "eebc3d0fba844c5e9e8b32ce68086404"
CONNECTED = "2529371691ee4f95be9d80162c17b5ee"
CLOSED = "7f057eb36f9943519742dd4279117567"
SIGNAL = "f5a76ca679a340cfad4e450c96a7d1d2"
SIGNAL_AGAIN = "d74278d8237d4656b246ddec8a9b884c"
NOTIFYING = "76d13a09ca564b7dbe72ccf17771e257"
COUNTDOWN = "4b779ae099954386815e6573d828c35d"
STOPPED = "e8349aa6f3f24e1c92e73c784359eaa7"
HANDED_OVER = "4f87b58082bf4cb4a7d8d4dab39020d3"
INHERITED = "6a9b6ce1a36c4d15a62d4a6f23e33a6e"
NOT_INHERITED = "dd5cc68cab9e4b2d9dbc4b2eea89ce0f"
HANDOVER_REFUSED = "c9e6d01fc623407d99628991c423c108"
RELOAD_FAILED = "3c8ff19412004bd98968ee4a3f8dc0bc"
REFUSED = "d09ac25e75aa48c28863f7e8ba9d372a"
CLAIM_GRANTED = "5c0a703fa2e74155815f35f6074d20b8"

_UNITS = "/etc/systemd/system"
_DROP_INS = f"{_UNITS}/{UNIT}.d"
_CONFIG = "/etc/graced/conf.d/test-it.toml"


class Service:
    """The unit under test, and what the test changes about it."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self._since = device.cursor()
        self._clients: list[socket.socket] = []

    # State

    def reset(self) -> None:
        """Bring it back to what was shipped, enabled and running."""
        self.restore()
        self.device.systemctl("start", UNIT)

    def restore(self) -> None:
        """Send the clients home, stop it and take back what a test may have changed."""
        device = self.device
        for client in self._clients:
            client.close()
        self._clients.clear()
        device.systemctl("stop", SOCKET_UNIT, UNIT)
        if device.exists(f"{_UNITS}/sockets.target.wants/{SOCKET_UNIT}"):
            device.systemctl("disable", SOCKET_UNIT)
        if not device.exists(f"{_UNITS}/multi-user.target.wants/{UNIT}"):
            device.systemctl("enable", UNIT)
        if device.exists(_DROP_INS):
            device.run("rm", "-r", _DROP_INS)
            device.systemctl("daemon-reload")
        if device.exists(_CONFIG):
            device.remove(_CONFIG)
        if self.show("ActiveState", "NRestarts") != {"ActiveState": "inactive", "NRestarts": "0"}:
            device.systemctl("reset-failed", UNIT)

    def drop_in(self, text: str) -> None:
        """Change the unit, as ``systemctl edit`` would; takes effect at the next start."""
        self.device.write(f"{_DROP_INS}/test.conf", text)
        self.device.systemctl("daemon-reload")

    def configure(self, toml: str) -> None:
        """Put a file into conf.d; takes effect at the next start."""
        self.device.write(_CONFIG, toml)

    def start(self) -> None:
        """Start it and return when it serves; raises CommandError when it fails."""
        self.device.systemctl("start", UNIT)

    def stop(self) -> None:
        """Stop it and return when it has."""
        self.device.systemctl("stop", UNIT)

    def restart(self) -> None:
        """Stop and start it."""
        self.device.systemctl("restart", UNIT)

    def show(self, *properties: str) -> dict[str, str]:
        """Properties of the unit."""
        return self.device.show(UNIT, *properties)

    def watch(self) -> UnitWatch:
        """Wait for properties of the unit."""
        return self.device.watch(UNIT)

    @property
    def pid(self) -> int:
        """The main process, by its number on the device; 0 when there is none."""
        return int(self.show("MainPID")["MainPID"])

    # Journal

    def mark(self) -> None:
        """Forget the records so far."""
        self._since = self.device.cursor()

    def journal(self, *matches: str) -> list[Record]:
        """The unit's records since the test began or the last ``mark``."""
        return self.device.journal(*matches, unit=UNIT, after=self._since)

    def follow(self) -> JournalStream:
        """The same as a stream."""
        return self.device.follow(unit=UNIT, after=self._since)

    def own_records(self) -> list[Record]:
        """Those that graced wrote, not systemd about it."""
        return [r for r in self.journal() if r.get("SYSLOG_IDENTIFIER") == "graced"]

    # Clients

    def connect(self, count: int = 1, port: int = PORT) -> list[socket.socket]:
        """New clients, each with an echo behind it: the server knows them all."""
        clients = self.knock(count, port)
        for client in clients:
            client.sendall(b"?")
        for client in clients:
            assert client.recv(64) == b"?"
        return clients

    def knock(self, count: int = 1, port: int = PORT) -> list[socket.socket]:
        """New connections, maybe not accepted yet; closed when the test is over."""
        clients: list[socket.socket] = []

        def make() -> None:
            for _ in range(count):
                clients.append(socket.create_connection(("127.0.0.1", port), PATIENCE))

        try:
            self.device.inside(make)
        finally:
            self._clients += clients
        return clients

    def connect_path(self, path: str, count: int = 1) -> list[socket.socket]:
        """The same as ``connect``, for a Unix socket."""
        clients = []
        for _ in range(count):
            clients.append(client := self.device.connect_unix(path))
            self._clients.append(client)
            client.sendall(b"?")
            assert client.recv(64) == b"?"
        return clients

    def echoes(self, port: int = PORT) -> bool:
        """Whether a new client gets back what it sends."""
        with self.device.connect(port) as client:
            client.sendall(b"are you there\n")
            return receive(client, 14) == b"are you there\n"


def is_message(message_id: str) -> Callable[[Record], bool]:
    """Whether a record is of a kind."""
    return lambda record: record.get("MESSAGE_ID") == message_id


def clients_now(status: str) -> int:
    """The number of clients in a status line, -1 if there is none in it."""
    found = re.search(r"\b(\d+) clients?\b", status)
    return int(found[1]) if found else -1


def receive(client: socket.socket, count: int) -> bytes:
    """Exactly count bytes, or fewer if the server closes."""
    data = b""
    while len(data) < count:
        chunk = client.recv(count - len(data))
        if not chunk:
            break
        data += chunk
    return data


def rest(client: socket.socket) -> bytes:
    """Everything up to the end of the stream."""
    data = b""
    while chunk := client.recv(65536):
        data += chunk
    return data
