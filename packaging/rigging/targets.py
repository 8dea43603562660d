"""The machines that the rig knows, by name."""

from dataclasses import dataclass

from rigging.rootfs import host_architecture

# Debian releases that graced is for.
RELEASES = ("bookworm", "trixie")


@dataclass(frozen=True)
class Target:
    """What a machine is: a release, an architecture, and whose kernel it runs on."""

    name: str
    release: str
    architecture: str
    virtual: bool
    """Whether it boots Debian's own kernel; a container runs on the kernel of this host."""


def _targets() -> dict[str, Target]:
    found = [Target(release, release, host_architecture(), False) for release in RELEASES]
    for suffix, architecture in (("vm", "amd64"), ("arm64", "arm64"), ("armhf", "armhf")):
        found += [Target(f"{rel}-{suffix}", rel, architecture, True) for rel in RELEASES]
    return {target.name: target for target in found}


TARGETS = _targets()
MACHINES = tuple(TARGETS)
CONTAINERS = tuple(name for name, target in TARGETS.items() if not target.virtual)
VIRTUAL = tuple(name for name, target in TARGETS.items() if target.virtual)
