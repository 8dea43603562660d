"""Where handlers are looked for, and the handler that the settings ask for.

A handler runs with all rights of the server, so the module must come from a directory that
no other user can write to.  The current directory counts only for a person at work in it: never
under a service manager, never for a Python that is isolated (``python3 -I``, as /usr/sbin/graced
runs), and only if its owner alone can write to it.  The current directory comes last, so that
no file there can stand in for an installed module.
"""

from __future__ import annotations

import os
import site
import stat
import sys

from graced.errors import ConfigError
from graced.handlers import registry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from graced.app.settings import Settings
    from graced.handlers.registry import Handler

_MANAGED = ("NOTIFY_SOCKET", "LISTEN_FDS", "GRACED_PREFLIGHT")
"""Variables of a process that a service manager starts (systemd.exec(5)), and of its preflight
(`graced.app.preflight.VARIABLE`)."""
_STARTED_PID = "SYSTEMD_EXEC_PID"
"""The process that systemd has started.  Other variables of systemd, such as INVOCATION_ID, come
down to every shell in a terminal that the user's own service manager has started."""


def find(settings: Settings, environ: Mapping[str, str]) -> Handler | None:
    """The configured handler, None for the built-in echo.  Raises `ConfigError`.

    Its options are not looked at.
    """
    name = settings.handler
    if name == registry.ECHO:
        return None
    # The built-in echo does without these modules: 3 ms of a start.
    from graced.handlers import finder  # noqa: PLC0415

    distrust = ""
    if not registry.is_built_in(name):
        distrust = _distrust(environ)
        if not distrust and os.getcwd() not in sys.path:
            sys.path.append(os.getcwd())
    try:
        return finder.find(name, settings.farewell, written=settings.farewell_is_written)
    except ConfigError as error:
        cause = error.__cause__
        module = name.partition(":")[0].partition(".")[0]
        if isinstance(cause, ModuleNotFoundError) and cause.name == module:
            raise ConfigError(f"{error}; {_advice(distrust)}") from cause
        raise


def prepare(settings: Settings, environ: Mapping[str, str]) -> Handler | None:
    """The configured handler with its options.  Raises `ConfigError`."""
    handler = find(settings, environ)
    if handler and settings.has_tls:
        from graced.app import certificates  # noqa: PLC0415

        certificates.check_handler(settings, handler)
    if handler is None and not settings.options:
        return None
    from graced.handlers import configuring  # noqa: PLC0415

    if handler is None:
        configuring.refuse_all(settings.handler, settings.options)
    else:
        if handler.asynchronous:
            from graced.app import loop_choice  # noqa: PLC0415

            loop_choice.check(settings, handler)
        configuring.configure(handler, settings.handler, settings.options)
    return handler


def _distrust(environ: Mapping[str, str]) -> str:
    """The reason why handlers in the current directory do not count; empty: no reason."""
    is_started = environ.get(_STARTED_PID) == str(os.getpid())
    if is_started or any(name in environ for name in _MANAGED):
        return "a service manager starts graced"
    if sys.flags.isolated:
        return "this Python is isolated (-I)"
    try:
        status = os.stat(os.getcwd())
    except OSError as error:
        return str(error.strerror)
    return "" if _is_ours_alone(status) else "others can write to it"


def _is_ours_alone(status: os.stat_result) -> bool:
    """Whether only this user and root can put a file into the directory.

    A group that has the number of the user is the user's own (as Debian makes them).
    """
    mode, user = status.st_mode, os.geteuid()
    by_others = mode & stat.S_IWOTH or (mode & stat.S_IWGRP and status.st_gid not in {user, 0})
    return status.st_uid in {user, 0} and not by_others


def _advice(distrust: str) -> str:
    searched = ", ".join(path for path in sys.path if os.path.isdir(path))
    target = site.getsitepackages()[0]
    here = f" and not in the current directory ({distrust})" if distrust else ""
    return f"handlers are looked for in {searched}{here}; install it in {target}"
