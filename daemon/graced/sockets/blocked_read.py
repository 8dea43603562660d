"""What a thread of this process waits for, as the kernel sees it: /proc/self/task/TID/syscall.

The file (proc_pid_syscall(5)) has the number of the system call in which a thread sleeps, and its
arguments.  The numbers differ between architectures; the arguments do not:

- recvfrom(2), recvmsg(2) and read(2) have the descriptor and the *address* of a buffer;
- select(2) and wait4(2) have a number and an address too, and the number may be that of the
  descriptor by chance: so the numbers of the reads are needed after all;
- sendfile(2), which has the descriptor first too, has another descriptor second;
- sendto(2), sendmsg(2) and write(2) look like a read, but sleep only while bytes are unsent;
- Python waits by poll(2) or ppoll(2) before it calls any of these, where a socket has a timeout:
  the address of one `struct pollfd`, and 1.
"""

from __future__ import annotations

import os
import struct
from functools import cache
from select import POLLIN
from threading import get_native_id

_LOWEST_ADDRESS = 0x10000
"""No memory is mapped below (/proc/sys/vm/mmap_min_addr), and no descriptor is above."""
_READS = frozenset(
    {
        *(b"0", b"45", b"47", b"19"),
        *(b"63", b"207", b"212", b"65"),
        *(b"3", b"145", b"371", b"372"),
        *(b"291", b"292", b"297"),
        *(b"336", b"337", b"342"),
    }
)
"""The numbers of read, recvfrom, recvmsg, readv and recv.

Of x86_64; arm64 and riscv64; i386 and s390x; arm; ppc64.  Where a number of one architecture is
another call on another, that has other arguments, or does not sleep.
"""
_POLLFD = struct.Struct("=ihh")


@cache
def is_known() -> bool:
    """Whether the kernel tells what the threads of this process wait for."""
    try:
        with open(f"/proc/self/task/{get_native_id()}/syscall", "rb", buffering=0) as file:
            # The thread that reads its own file is in read(2).
            return file.read(256).split()[0] in _READS
    except (OSError, IndexError):
        return False


def waits_for_input(thread: int, fd: int) -> bool:
    """Whether the thread sleeps until input of the descriptor `fd`, and of no other, arrives.

    `thread`: as from `threading.get_native_id`.  The caller knows that no byte of `fd` is unsent.
    False where the kernel does not tell (see `is_known`).
    """
    try:
        with open(f"/proc/self/task/{thread}/syscall", "rb", buffering=0) as file:
            words = file.read(256).split()
        first, second = int(words[1], 16), int(words[2], 16)
        if first == fd:
            return second >= _LOWEST_ADDRESS and words[0] in _READS
        return first >= _LOWEST_ADDRESS and second == 1 and _polls(first, fd)
    except (OSError, IndexError, ValueError):
        # "running", a thread that has ended, no /proc: not asleep, as far as we can know.
        return False


def _polls(address: int, fd: int) -> bool:
    """Whether a `struct pollfd` at this address asks for input of `fd`."""
    memory = os.open("/proc/self/mem", os.O_RDONLY | os.O_CLOEXEC)
    try:
        polled, asked, _ = _POLLFD.unpack(os.pread(memory, _POLLFD.size, address))
    except struct.error:
        return False
    finally:
        os.close(memory)
    return polled == fd and bool(asked & POLLIN)
