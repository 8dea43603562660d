"""Starts that are refused, and the clients that they have inherited."""

from __future__ import annotations

import os
from contextlib import suppress

from graced.app import handler_path
from graced.errors import GracedError
from graced.handlers import registry
from graced.handover.inherited import Inherited
from graced.log import sinks, writer
from graced.systemd import activation

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from graced.app.settings import Settings


def refuse(settings: Settings) -> None:
    """Tell the inherited clients of a start that is refused before there is a `Service`.

    systemd does not try again after such a refusal, and closes these clients.
    `settings`: the valid part of the configuration, for the words of the farewell.
    """
    with suppress(GracedError):
        passed = activation.passed(os.environ, os.getpid())
        if passed:
            log = writer.open_log(settings.level, sinks.sink_for(detached=False))
            inherited = Inherited(passed)
            inherited.turn_away(last_words(settings, os.environ, inherited))
            log.stop()


def last_words(settings: Settings, environ: Mapping[str, str], inherited: Inherited) -> bytes:
    """The farewell that the inherited clients understand; empty: none is known.

    Any text could be wrong in the protocol of a handler that cannot be imported, or of another: the
    clients of another count as told.
    """
    try:
        handler = handler_path.find(settings, environ)
    except GracedError:
        return b""
    inherited.expect_handler(registry.name_of(handler))
    return (handler.farewell or b"") if handler else settings.farewell
