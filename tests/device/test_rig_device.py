"""What the rig promises of a device, of containers and virtual machines alike."""

import hashlib
import os
import socket
import subprocess
import time

import pytest

from device.service import PORT, Service
from rigging import Device
from rigging.errors import PATIENCE
from rigging.streams import LineStream

pytestmark = pytest.mark.every_kernel

# More than all buffers between here and there hold.
LARGE = os.urandom(6_000_000)


def test_command_has_its_streams_and_its_status(device: Device) -> None:
    result = device.run(
        "sh", "-c", "cat; echo complaint >&2; exit 3", stdin="question", check=False
    )
    assert (result.returncode, result.stdout, result.stderr) == (3, "question", "complaint\n")


def test_command_that_is_killed_has_status_as_in_shell(device: Device) -> None:
    # nsenter dies of the same signal, and the agent's messenger says so in the way of a shell.
    status = device.run("sh", "-c", "kill -TERM $$", check=False).returncode
    assert status in (-15, 128 + 15)


def test_missing_command(device: Device) -> None:
    assert device.run("no-such-command", check=False).returncode == 127


def test_large_streams_both_ways_at_once(device: Device) -> None:
    argv = device.command(["cat"])
    result = subprocess.run(argv, input=LARGE, stdout=subprocess.PIPE, check=True, timeout=120)
    assert hashlib.sha256(result.stdout).digest() == hashlib.sha256(LARGE).digest()


def test_end_kills_command_on_device(device: Device) -> None:
    process = device.popen("sh", "-c", "echo $$; sleep infinity")
    with LineStream(process, device.end) as output:
        pid = output.line(time.monotonic() + PATIENCE)
        assert device.exists(f"/proc/{pid}")
    assert not device.exists(f"/proc/{pid}")


def test_files_keep_their_bytes(device: Device) -> None:
    path = "/var/tmp/rig/test"
    device.write_bytes(path, bytes(range(256)))
    assert device.read_bytes(path) == bytes(range(256))
    assert device.exists(path)
    device.remove(path)
    assert not device.exists(path)


def test_refused_connections_are_refused(device: Device) -> None:
    with pytest.raises(FileNotFoundError):
        device.connect_unix("/run/no-such-socket")
    for host in ("127.0.0.1", "::1"):
        with pytest.raises(ConnectionRefusedError):
            device.connect(9, host)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_half_close_is_passed_on(graced: Service, host: str) -> None:
    with graced.device.connect(PORT, host) as client:
        client.sendall(b"last words")
        client.shutdown(socket.SHUT_WR)
        heard = b""
        while data := client.recv(64):
            heard += data
    assert heard == b"last words"
