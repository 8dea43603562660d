"""How qemu runs a virtual machine: which program, which processor, and whether KVM works.

KVM is not taken at its word: on some hosts qemu accepts it and the kernel never gets anywhere. So
the kernel is booted once without a root file system, where it has to panic, which ends qemu.

Emulated, an amd64 machine has one processor. Linux patches its own code while it runs, with
a breakpoint in the place of an instruction until all processors know the new instruction; under
qemu another processor runs into the breakpoint afterwards ("Oops: int3"). With two processors the
kernel of Debian 13 died within two minutes when a static key (kernel.sched_schedstats) was switched
as fast as a shell can, and now and then in a boot; with one processor the key was switched 10,460
times. The ARM machines have two processors: their kernels need no breakpoint.
"""

import functools
import os
import shutil
import subprocess
from pathlib import Path

from rigging import cache
from rigging.kernel import Kernel
from rigging.network import TAP
from rigging.rootfs import host_architecture
from rigging.targets import Target

# Seconds. A kernel that KVM runs panics within two.
_PROBE_TIMEOUT = 10.0

PROGRAMS = {
    "amd64": "qemu-system-x86_64",
    "arm64": "qemu-system-aarch64",
    "armhf": "qemu-system-arm",
}

_BOARDS = {
    "amd64": ("q35", "virtio-blk-pci", "virtio-net-pci,romfile=", "ttyS0"),
    "arm64": ("virt", "virtio-blk-device", "virtio-net-device", "ttyAMA0"),
    "armhf": ("virt", "virtio-blk-device", "virtio-net-device", "ttyAMA0"),
}

_EMULATED = {"amd64": "max", "arm64": "cortex-a72", "armhf": "cortex-a15"}

# "host" alone makes qemu 7.2 set a model-specific register that an outer hypervisor may refuse.
_VIRTUALIZED = {"amd64": "host,arch-capabilities=off", "arm64": "host", "armhf": "host"}


def command(
    target: Target, kernel: Kernel, disk: Path, console: Path, memory: int, cpus: int
) -> list[str]:
    """The command that boots a machine with that many MB of memory; it ends with the machine.

    An emulated amd64 machine has one processor, whatever ``cpus`` is (the head says why).
    """
    _, block, net, _ = _BOARDS[target.architecture]
    accelerated_by = accelerator(target, kernel)
    if target.architecture == "amd64" and accelerated_by == "tcg":
        cpus = 1
    argv = _machine(target, kernel, accelerated_by)
    argv += [f"-smp={cpus}", f"-m={memory}"]
    argv += [f"-drive=file={disk},format=qcow2,if=none,id=disk,cache=unsafe"]
    argv += [f"-device={block},drive=disk", f"-serial=file:{console}"]
    argv += [f"-netdev=tap,id=net,ifname={TAP},script=no,downscript=no"]
    argv += [f"-device={net},netdev=net"]
    return [word for option in argv for word in option.split("=", 1)]


def accelerator(target: Target, kernel: Kernel) -> str:
    """``kvm`` or ``tcg``; decided once for a kernel on a host, then kept in the cache."""
    if target.architecture != host_architecture() or not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "tcg"

    def probe(unfinished: Path) -> None:
        unfinished.write_text("kvm" if _kvm_runs(target, kernel) else "tcg")

    made_from = (_qemu_version(target), os.uname().release, _processor(), kernel.version)
    entry = cache.entry("accelerators", target.name, made_from, probe)
    return entry.read_text()


def _machine(target: Target, kernel: Kernel, accelerated_by: str) -> list[str]:
    """What a machine is without its devices, as OPTION=VALUE."""
    board, _, _, console = _BOARDS[target.architecture]
    kvm = accelerated_by == "kvm"
    models = _VIRTUALIZED if kvm else _EMULATED
    append = f"console={console} quiet loglevel=3 panic=-1 net.ifnames=0"
    append += " systemd.show_status=0 systemd.getty_auto=0"
    return [
        PROGRAMS[target.architecture],
        f"-machine={board}",
        f"-accel={'kvm' if kvm else 'tcg,thread=multi'}",
        f"-cpu={models[target.architecture]}",
        "-nodefaults",
        "-no-user-config",
        "-display=none",
        "-no-reboot",
        "-monitor=none",
        f"-kernel={kernel.image}",
        f"-initrd={kernel.initrd}",
        f"-append={append}",
    ]


def _kvm_runs(target: Target, kernel: Kernel) -> bool:
    argv = _machine(target, kernel, "kvm")
    # Without a RAM disk there is no root file system.
    argv = [option for option in argv if not option.startswith("-initrd=")]
    argv = [word for option in argv for word in option.split("=", 1)]
    try:
        result = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=_PROBE_TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired:
        return False
    return result.returncode == 0


def _qemu_version(target: Target) -> str:
    argv = [PROGRAMS[target.architecture], "--version"]
    return subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=True).stdout


@functools.cache
def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    wanted = ("vendor_id", "model", "cpu family", "flags", "CPU part", "Features")
    return "\n".join(sorted({line for line in lines if line.startswith(wanted)}))


def missing(target: Target) -> str | None:
    """The package that this host lacks to run a target, or None."""
    packages = {"amd64": "qemu-system-x86", "arm64": "qemu-system-arm", "armhf": "qemu-system-arm"}
    tools = {
        PROGRAMS[target.architecture]: packages[target.architecture],
        "qemu-img": "qemu-utils",
        "cpio": "cpio",
        "modprobe": "kmod",
        "mke2fs": "e2fsprogs",
        "ip": "iproute2",
    }
    return next((tools[tool] for tool in tools if shutil.which(tool) is None), None)
