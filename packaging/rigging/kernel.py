"""Debian's kernels, each with an initial RAM disk that finds the root file system.

The initial RAM disk sets up what a virtual machine of the rig has and a device has not: the network
to the rig, and in /run, which systemd takes over as it is, the agent (agent.py) with its unit. So
the disk holds exactly what a device has.
"""

import lzma
import shutil
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path

from rigging import agent, cache, rootfs
from rigging.errors import RigError
from rigging.targets import Target

_PACKAGES = {
    "amd64": "linux-image-amd64",
    "arm64": "linux-image-arm64",
    "armhf": "linux-image-armmp-lpae",
}

# To find the disk, the network and the time of day; a module that is built in is no file.
_MODULES = (
    *("virtio_pci", "virtio_mmio", "virtio_blk", "virtio_net", "rtc_pl031"),
    *("crc32c_generic", "crc32c", "ext4"),
)

# Addresses from RFC 5737. The kernel usually drops packets from and to 127/8 that do not come from
# the loopback interface; route_localnet lets them in, so that a client outside reaches
# a service that listens on the device's localhost.
_INIT = f"""#!/bin/busybox sh
export PATH=/bin
busybox mount -t proc none /proc
busybox --install -s /bin
mount -t devtmpfs none /dev
mount -t sysfs none /sys
for module in /modules/*; do insmod $module || echo "insmod $module failed"; done
for _ in $(seq 100); do [ -b /dev/vda ] && [ -e /sys/class/net/eth0 ] && break; usleep 50000; done
ifconfig eth0 {agent.DEVICE_ADDRESS} netmask 255.255.255.0 up
echo 1 >/proc/sys/net/ipv4/conf/all/route_localnet
mount -t ext4 -o rw,noatime /dev/vda /root || {{ echo "no root file system"; poweroff -f; }}
mount -t tmpfs -o mode=0755,nosuid,nodev none /root/run
cp -R /rig/run/. /root/run/
umount /proc
umount /sys
mount -o move /dev /root/dev
exec switch_root /root /lib/systemd/systemd
"""

_UNIT = f"""[Unit]
Description=Agent of the device test rig
DefaultDependencies=no
Requires=dbus.socket
After=sysinit.target dbus.socket
[Service]
ExecStart=/usr/bin/python3 -I -S /run/rig/agent.py
Restart=on-failure
OOMScoreAdjust=-900
LimitNOFILE={agent.DESCRIPTORS}:524288
"""


@dataclass(frozen=True)
class Kernel:
    """Files to boot from."""

    image: Path
    initrd: Path
    version: str
    """Of the package that the image is from."""


def kernel(target: Target) -> Kernel:
    """The kernel of a target, from the cache or unpacked now. Raises RigError."""
    package = _PACKAGES[target.architecture]
    made_from = (package, *_MODULES, _INIT, _UNIT, Path(agent.__file__).read_text())
    files = rootfs.extracted(target.release, target.architecture, (package, "busybox-static"))

    def build(unfinished: Path) -> None:
        unfinished.mkdir()
        (image,) = (files / "boot").glob("vmlinuz-*")
        shutil.copyfile(image, unfinished / "vmlinuz")
        _pack_initrd(files, image.name.removeprefix("vmlinuz-"), unfinished)

    name = f"{target.release}-{target.architecture}"
    entry = cache.entry("kernels", name, (files.name, *made_from), build)
    return Kernel(entry / "vmlinuz", entry / "initrd", files.name)


def _pack_initrd(files: Path, version: str, target: Path) -> None:
    tree = target / "tree"
    for name in ("bin", "dev", "proc", "sys", "root", "modules", "rig/run/rig"):
        (tree / name).mkdir(parents=True)
    busybox = next(p for p in (files / "usr/bin/busybox", files / "bin/busybox") if p.exists())
    shutil.copy2(busybox, tree / "bin/busybox")
    for number, module in enumerate(_needed_modules(files, version, target)):
        data = module.read_bytes()
        name = f"{number:02}-{module.name}"
        if module.suffix == ".xz":
            data, name = lzma.decompress(data), name.removesuffix(".xz")
        (tree / "modules" / name).write_bytes(data)
    _write_program(tree / "init", _INIT)
    _write_program(tree / "rig/run/rig/agent.py", Path(agent.__file__).read_text())
    wants = tree / "rig/run/systemd/system/basic.target.wants"
    wants.mkdir(parents=True)
    (wants.parent / "rig-agent.service").write_text(_UNIT)
    (wants / "rig-agent.service").symlink_to("../rig-agent.service")
    listing = subprocess.run(["find", "."], cwd=tree, stdout=subprocess.PIPE, check=True).stdout
    pack = ["cpio", "--create", "--format=newc", "--quiet", "--owner=0:0"]
    archive = subprocess.run(pack, cwd=tree, input=listing, stdout=subprocess.PIPE, check=True)
    (target / "initrd").write_bytes(archive.stdout)
    shutil.rmtree(tree)


def _needed_modules(files: Path, version: str, work: Path) -> list[Path]:
    """The modules and those that they need, in an order in which they can be inserted."""
    # kmod wants /lib/modules, which trixie's packages have under /usr/lib only.
    base = work / "kmod"
    (base / "lib").mkdir(parents=True)
    modules = next(p for p in (files / "lib/modules", files / "usr/lib/modules") if p.is_dir())
    shutil.copytree(modules, base / "lib/modules")
    subprocess.run(["depmod", "--basedir", base, version], check=True)
    found: dict[str, Path] = {}
    for name in _MODULES:
        argv = ["modprobe", "--dirname", str(base), f"--set-version={version}"]
        # A module that this kernel has built in, or has not at all, is an error here.
        shown = subprocess.run(
            [*argv, "--show-depends", name], capture_output=True, text=True, check=False
        )
        for line in shown.stdout.splitlines():
            kind, _, path = line.strip().partition(" ")
            if kind == "insmod":
                relative = Path(path.split()[0]).relative_to(base / "lib/modules")
                found.setdefault(str(relative), modules / relative)
    shutil.rmtree(base)
    if not any("ext4" in name for name in found):
        raise RigError(f"kernel {version} has no module for ext4")
    return list(found.values())


def _write_program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
