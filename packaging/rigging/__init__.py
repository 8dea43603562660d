"""The device test rig: boots Debian releases in containers and drives them.

``rootfs`` builds and caches root file systems, ``workspace`` gives a machine its own disposable
copy, ``machine`` boots it, ``device`` is what a test sees of it, and ``workbench`` lends the Python
and the packaging tools of a release to the rest of the project.
"""

from rigging.device import Device, LocalDevice, Record
from rigging.errors import CommandError, RigError
from rigging.machine import Machine
from rigging.rootfs import RELEASES, unavailable
from rigging.workbench import Workbench

__all__ = [
    "RELEASES",
    "CommandError",
    "Device",
    "LocalDevice",
    "Machine",
    "Record",
    "RigError",
    "Workbench",
    "unavailable",
]
