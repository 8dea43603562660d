"""A service of two processes, which do what they are told: the program for the device.

Each process listens at ``/run/pair/NAME`` and takes one command per connection.
"""

from __future__ import annotations

import array
import os
import select
import signal
import socket
import sys
from pathlib import Path

HOME = Path("/run/pair")
PID_FILE = HOME / "pid"


def notify(text: str, *descriptors: int) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.connect(os.environ["NOTIFY_SOCKET"])
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))
        manager.sendmsg([text.encode()], [rights] if descriptors else [])


def barrier() -> None:
    """Return when systemd has read everything so far."""
    read, write = os.pipe()
    notify("BARRIER=1", write)
    os.close(write)
    poll = select.poll()
    poll.register(read, 0)
    poll.poll()
    os.close(read)


def say(text: str) -> str:
    notify(text.replace(" ", "\n"))
    barrier()
    return "said"


REFUSAL_TIME = 2000
"""Milliseconds in which a refused descriptor is closed: systemd 257 lets another process do it."""


def store(name: str) -> str:
    """Store a descriptor; whether systemd has it, or has refused it."""
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            notify(f"FDSTORE=1\nFDNAME={name}\nFDPOLL=0", theirs.fileno())
        barrier()
        poll = select.poll()
        poll.register(ours, 0)
        return "refused" if poll.poll(REFUSAL_TIME) else "stored"


def start_new(name: str) -> str:
    """Start another process, a child of PID 1; its pid."""
    read, write = os.pipe()
    session = os.fork()
    if not session:
        os.setsid()
        leader = os.getpid()
        if os.fork():
            os._exit(0)
        while os.getppid() == leader:
            os.sched_yield()
        with listen(name) as listener:
            os.write(write, str(os.getpid()).encode())
            serve(listener)
    os.waitpid(session, 0)
    return os.read(read, 20).decode()


def end(status: str) -> str:
    os._exit(int(status))


COMMANDS = {"say": say, "store": store, "start": start_new, "end": end}


def listen(name: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(HOME / name))
    listener.listen()
    return listener


def serve(listener: socket.socket) -> None:
    while True:
        connection, _ = listener.accept()
        with connection:
            word, _, rest = connection.recv(1000).decode().partition(" ")
            connection.sendall(COMMANDS[word](rest).encode())


if __name__ == "__main__":
    # A stop is for the commands of the test to end.
    for number in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    with listen(sys.argv[1]) as first:
        PID_FILE.write_text(f"{os.getpid()}\n")
        notify("READY=1")
        serve(first)
