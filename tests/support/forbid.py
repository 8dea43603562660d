"""System calls that are forbidden, as a container does it: with seccomp(2).

The filter holds for a process and what it starts, needs no privileges, and can look at arguments,
which strace(1) cannot.  libseccomp, which apt needs too, knows the numbers of the calls.
"""

from __future__ import annotations

import ctypes
import errno
from typing import NamedTuple

_ALLOW = 0x7FFF0000
_ERRNO = 0x00050000
_EQUAL = 4
_MASKED_EQUAL = 7


class _Comparison(ctypes.Structure):
    _fields_ = (
        ("argument", ctypes.c_uint),
        ("operator", ctypes.c_int),
        ("datum_a", ctypes.c_uint64),
        ("datum_b", ctypes.c_uint64),
    )


class Forbidden(NamedTuple):
    """A system call that fails."""

    call: str
    error: str
    """Its name: ``EPERM``."""
    argument: int = -1
    """The position of an argument that has to have `value`; negative: it always fails."""
    value: int = 0
    bits: int = 0
    """Only these are compared; 0: all of them."""

    @property
    def code(self) -> str:
        """See `code_of`."""
        return code_of(self)

    def __str__(self) -> str:
        option = "" if self.argument < 0 else f"-{self.value}"
        return f"{self.call}{option}-{self.error}"


def code_of(*rules: Forbidden) -> str:
    """What forbids these calls, for `support.process.launch`, which needs the tests in its path."""
    return f"from support.forbid import Forbidden, forbid\nforbid(*{rules!r})\n"


def forbid(*rules: Forbidden) -> None:
    """Make these calls fail in this process from now on, and in all that it starts."""
    library = ctypes.CDLL("libseccomp.so.2")
    library.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(library.seccomp_init(ctypes.c_uint32(_ALLOW)))
    for rule in rules:
        number = library.seccomp_syscall_resolve_name(rule.call.encode())
        action = ctypes.c_uint32(_ERRNO | getattr(errno, rule.error))
        comparisons = (_Comparison * 1)(
            _Comparison(rule.argument, _MASKED_EQUAL, rule.bits, rule.value)
            if rule.bits
            else _Comparison(rule.argument, _EQUAL, rule.value, 0)
        )
        count = 0 if rule.argument < 0 else 1
        _check(library.seccomp_rule_add_array(context, action, number, count, comparisons))
    _check(library.seccomp_load(context))
    library.seccomp_release(context)


def _check(result: int) -> None:
    assert result == 0, f"libseccomp: {errno.errorcode[-result]}"
