"""The device test rig: boots Debian releases in containers and virtual machines and drives them.

``targets`` names the machines. ``rootfs`` builds root file systems and ``cache`` keeps them,
``workspace`` gives a machine a disposable place, ``container`` and ``virtual`` boot one,
``device`` is what a test sees of it, and ``workbench`` lends the Python and the packaging tools of
a release to the rest of the project.
"""

from rigging import emulator, rootfs
from rigging.container import Container
from rigging.device import Device, LocalDevice, Record
from rigging.errors import CommandError, RigError
from rigging.machine import Machine
from rigging.targets import CONTAINERS, MACHINES, RELEASES, TARGETS, VIRTUAL
from rigging.virtual import VirtualMachine
from rigging.workbench import Workbench

__all__ = [
    "CONTAINERS",
    "MACHINES",
    "RELEASES",
    "TARGETS",
    "VIRTUAL",
    "CommandError",
    "Container",
    "Device",
    "LocalDevice",
    "Machine",
    "Record",
    "RigError",
    "VirtualMachine",
    "Workbench",
    "machine",
    "unavailable",
]


def machine(name: str) -> Machine:
    """A machine of MACHINES, which boots when its context is entered. Raises RigError."""
    target = TARGETS[name]
    return VirtualMachine(target) if target.virtual else Container(target.release)


def unavailable(*names: str) -> str | None:
    """Why this host cannot run the rig, or machines of these names, in one line; else None."""
    reason = rootfs.unavailable()
    for name in names:
        target = TARGETS[name]
        if reason is None and target.virtual and (package := emulator.missing(target)):
            reason = f"{name} needs the package {package}"
    return reason
