"""Runs a command on each of the given terminals, all of them in one network of their own.

    shells.py DESCRIPTOR[,DESCRIPTOR]... COMMAND [ARGUMENT]...

The network has a loopback interface and nothing else, so the ports of the documentation are free
whatever else runs on this machine.  An ordinary user gets it with a user namespace, and stays that
user.  Where the kernel allows neither, the commands share the network of the machine.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
import sys
import termios
from pathlib import Path

_CLONE_NEWUSER = 0x10000000
_CLONE_NEWNET = 0x40000000
_SIOCSIFFLAGS = 0x8914
_UP_AND_RUNNING = 0x41


def enter_own_network() -> None:
    """Raises `OSError` where the kernel does not allow it."""
    uid, gid = os.getuid(), os.getgid()
    namespaces = _CLONE_NEWNET | (_CLONE_NEWUSER if uid else 0)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(namespaces):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    if uid:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
        Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
    with socket.socket() as sock:
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _UP_AND_RUNNING))


def run_on(terminal: int, command: list[str]) -> int:
    """Start the command with the terminal as its controlling one; return its number."""
    child = os.fork()
    if not child:
        os.setsid()
        fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
        for stream in range(3):
            os.dup2(terminal, stream)
        os.execvp(command[0], command)
    return child


def main() -> None:
    """Run the commands to their ends."""
    terminals = [int(text) for text in sys.argv[1].split(",")]
    try:
        enter_own_network()
    except OSError as error:
        print(f"no network of its own: {error.strerror}", file=sys.stderr)
    children = [run_on(terminal, sys.argv[2:]) for terminal in terminals]
    for terminal in terminals:
        os.close(terminal)
    for child in children:
        os.waitpid(child, 0)


if __name__ == "__main__":
    main()
