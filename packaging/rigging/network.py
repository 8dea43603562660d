"""A network of two: this side of it in a namespace on the host, the other a virtual machine.

The namespace has no loopback. Whoever is in it and connects to 127.0.0.1 reaches the machine's
loopback, over a real wire with the machine's own TCP on its end: what a test sends, leaves unread,
half-closes or resets is what the daemon gets, and the address that the daemon logs is the client's.
A forwarder in between would hide all of that.
"""

import ctypes
import os
import socket
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, TypeVar

from rigging.agent import DEVICE_ADDRESS, PORT, RIG_ADDRESS

T = TypeVar("T")

CLONE_NEWNET = 0x40000000

TAP = "rig"

# No route to a loopback of the namespace's own exists as long as its interface is down.
_SET_UP = f"""
ip tuntap add {TAP} mode tap
ip address add {RIG_ADDRESS}/24 dev {TAP}
ip link set {TAP} up
echo 1 >/proc/sys/net/ipv4/conf/{TAP}/route_localnet
ip route add 127.0.0.0/8 via {DEVICE_ADDRESS} dev {TAP} src {RIG_ADDRESS}
"""


class Network:
    """A namespace with a tap device for a machine; nothing is left of it after ``close``.

    ``path`` names the namespace to every process of this host as long as this one keeps it.
    """

    def __init__(self) -> None:
        self._namespace = self._make()
        self.descriptor = self._namespace.fileno()
        self.path = f"/proc/{os.getpid()}/fd/{self.descriptor}"

    def inside(self, action: Callable[[], T]) -> T:
        """Call action, in a thread of its own, where the machine's network is."""
        return inside(Path(self.path), action)

    def listen_for_agent(self) -> socket.socket:
        """A listener to which a machine's agent connects when it is there."""
        return self.inside(lambda: socket.create_server(("", PORT)))

    def close(self) -> None:
        """Let go of the namespace. May be called again."""
        self._namespace.close()

    def _make(self) -> IO[bytes]:
        def make() -> IO[bytes]:
            _call("unshare", CLONE_NEWNET)
            subprocess.run(["sh", "-ec", _SET_UP], check=True)
            return Path("/proc/thread-self/ns/net").open("rb")

        with ThreadPoolExecutor(1) as thread:
            return thread.submit(make).result()


def inside(namespace: Path, action: Callable[[], T]) -> T:
    """Call action in a thread of its own, in a network namespace."""

    def enter_and_act() -> T:
        with namespace.open("rb") as file:
            _call("setns", file.fileno(), CLONE_NEWNET)
        return action()

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(enter_and_act).result()


def _call(name: str, *arguments: int) -> None:
    """os.setns and os.unshare, which Python has since 3.12 only."""
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
