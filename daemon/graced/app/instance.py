"""The names of one service, where a device has several: of its unit, its files and its log.

The main service has the name ``graced`` everywhere.  The others are instances of
``graced@.service``: everything of the instance NAME is named ``graced@NAME``, but for its
configuration, which is beside that of the main service.
"""

from __future__ import annotations

import os
from types import SimpleNamespace

from graced.app import settings
from graced.errors import UsageError, shown
from graced.log.sinks import IDENTIFIER

OPTION = "--instance"
_LONGEST = 64
_SPECIAL = "_.-"
_TAKEN = {"conf", IDENTIFIER}
"""/etc/graced/conf.d and /etc/graced/graced.toml belong to the main service."""


class Instance(SimpleNamespace):
    """A service, by its name; the empty name is that of the main service."""

    name: str

    @property
    def full_name(self) -> str:
        """The name of the unit without its type; identifies the log, and names directories."""
        return f"{IDENTIFIER}@{self.name}" if self.name else IDENTIFIER

    @property
    def unit(self) -> str:
        """The unit of systemd."""
        return f"{self.full_name}.service"

    @property
    def config_file(self) -> str:
        """The configuration.  That of the main service may be missing."""
        directory = os.path.dirname(settings.CONFIG_FILE)
        return f"{directory}/{self.name}.toml" if self.name else settings.CONFIG_FILE

    @property
    def drop_ins(self) -> str:
        """The directory of drop-ins."""
        directory = os.path.dirname(settings.CONFIG_FILE)
        return f"{directory}/{self.name}.d" if self.name else settings.DROP_INS

    @property
    def control_socket(self) -> str:
        """The control socket, in the runtime directory of the unit."""
        return f"/run/{self.full_name}/control"

    @property
    def pid_file(self) -> str:
        """The default of the pidfile."""
        return f"/run/{self.full_name}/graced.pid" if self.name else settings.PID_FILE


MAIN = Instance(name="")


def named(name: str) -> Instance:
    """The instance with that name.  Raises `UsageError`."""
    # Without `re`, which a start does not import.
    bare = name.translate(dict.fromkeys(map(ord, _SPECIAL)))
    is_name = bare.isascii() and bare.isalnum() and name[0] not in _SPECIAL
    if not is_name or len(name) > _LONGEST or name in _TAKEN:
        raise UsageError(
            f"{OPTION} must be a name of letters, digits, '_', '.' and '-', and not"
            f" {' or '.join(sorted(_TAKEN))}, not {shown(name)}"
        )
    return Instance(name=name)
