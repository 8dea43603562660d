"""Root file systems of Debian releases, built with mmdebstrap and kept in the cache.

An entry's name holds the release, the purpose, the architecture and a digest of everything that
the root file system is made from, so a changed package list is a new entry.
"""

import os
import shutil
import subprocess
from pathlib import Path

from rigging import cache
from rigging.errors import RigError

# What a small device has and graced needs. procps, iproute2 and the like are left out on
# purpose: they are not on every device, and a unit file that needs /bin/kill must fail here.
# strace, which delays PID 1 in one test, is the only guest.
DEVICE = (
    "dbus",
    "python3",
    "python3-daemon",
    "python3-sdnotify",
    "python3-systemd",
    "strace",
    "systemd",
    "systemd-sysv",
)

# What the project's other tests and Debian's own checks need from a release, beside its Python.
DEV = (
    *DEVICE,
    "autopkgtest",
    "bash-completion",
    "build-essential",
    "curl",
    "debhelper",
    "dh-python",
    "git",
    "haproxy",
    "lintian",
    "make",
    "mandoc",
    "piuparts",
    "procps",
    "pybuild-plugin-pyproject",
    "python3-all",
    "python3-h11",
    "python3-hypothesis",
    "python3-prometheus-client",
    "python3-pyte",
    "python3-pytest",
    "python3-pytest-xdist",
    "python3-setuptools",
    "python3-uvloop",
    "python3-venv",
    # Each release has one, named after its Python.
    r"?name(^libpython3\.[0-9]+-testsuite$)",
)

PURPOSES = {"device": DEVICE, "dev": DEV}

# Counted up when the recipe below changes in a way that the package lists do not show.
_RECIPE = "1"

# mmdebstrap copies the host's names and name servers; a device has its own.
_CUSTOMIZE = (
    r'printf "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n" >"$1/etc/hosts"',
    'echo device >"$1/etc/hostname"',
    ': >"$1/etc/resolv.conf"',
)

# (command, Debian package)
_TOOLS = (
    ("systemd-nspawn", "systemd-container"),
    ("mmdebstrap", "mmdebstrap"),
    ("nsenter", "util-linux"),
    ("setpriv", "util-linux"),
    ("unshare", "util-linux"),
)


def unavailable() -> str | None:
    """Why this host cannot run the rig, in one line, or None where it can."""
    if os.geteuid() != 0:
        return "not root"
    for tool, package in _TOOLS:
        if shutil.which(tool) is None:
            return f"{tool} is not installed (package {package})"
    return None


def host_architecture() -> str:
    """Debian's name for the architecture of this host, in which containers run."""
    machine = os.uname().machine
    return {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "armhf"}.get(machine, machine)


def root(release: str, purpose: str = "device", architecture: str | None = None) -> Path:
    """The unpacked root file system for a release, from the cache or built now.

    It is shared: nobody writes to it. Without an architecture it is for containers on this host.
    Raises RigError when mmdebstrap fails.
    """
    architecture = architecture or host_architecture()
    packages = PURPOSES[purpose]
    made_from = (_RECIPE, release, architecture, *_CUSTOMIZE, *packages)

    def build(unfinished: Path) -> None:
        options = ["--variant=minbase", *(f"--customize-hook={hook}" for hook in _CUSTOMIZE)]
        _mmdebstrap(options, release, architecture, packages, unfinished)

    return cache.entry("roots", f"{release}-{purpose}-{architecture}", made_from, build)


def extracted(release: str, architecture: str, packages: tuple[str, ...]) -> Path:
    """The files of some packages and of all that they depend on, from the cache or unpacked now.

    No program of the architecture runs for it, so it is quick, and nothing in it is configured.
    Raises RigError when mmdebstrap fails.
    """

    def build(unfinished: Path) -> None:
        _mmdebstrap(["--variant=extract"], release, architecture, packages, unfinished)

    name = f"{release}-{packages[0]}-{architecture}"
    return cache.entry("roots", name, (_RECIPE, release, architecture, *packages), build)


def _mmdebstrap(
    options: list[str], release: str, architecture: str, packages: tuple[str, ...], target: Path
) -> None:
    # In namespaces of its own, so that an interrupt leaves neither processes nor mounts behind:
    # removing a half-built tree with a live /sys in it would be no joke.
    argv = ["setpriv", "--pdeathsig=KILL", "unshare", "--mount", "--pid", "--mount-proc"]
    argv += ["--fork", "--kill-child"]
    argv += ["mmdebstrap", "--format=directory", "--mode=root", *options]
    argv += [f"--architectures={architecture}", f"--include={','.join(packages)}"]
    argv += [f"--aptopt={option}" for option in _host_apt_options()]
    argv += [release, str(target)]
    sources = _sources(release)
    result = subprocess.run([*argv, *sources], capture_output=True, text=True, check=False)
    release_alone = [line for line in sources if line.endswith(f" {release} main")]
    if "Failed to fetch" in result.stderr and len(release_alone) < len(sources):
        # A mirror may lag behind with the updates for an architecture that few people use.
        print(f"rig: the mirror has no updates for {release} on {architecture}: built without")
        shutil.rmtree(target, ignore_errors=True)
        result = subprocess.run(
            [*argv, *release_alone], capture_output=True, text=True, check=False
        )
    if result.returncode != 0:
        tail = "\n".join(result.stderr.splitlines()[-20:])
        raise RigError(f"mmdebstrap could not build {target.parent.name}:\n{tail}")
    target.chmod(0o755)


def _sources(release: str) -> list[str]:
    """The host's own Debian sources, turned to another release.

    Empty where the host has none, and then mmdebstrap takes its default. $GRACED_RIG_MIRROR
    replaces them all.
    """
    mirror = os.environ.get("GRACED_RIG_MIRROR")
    if mirror:
        return [mirror]
    keyring = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
    signed_by = f"[signed-by={keyring}] " if keyring.exists() else ""
    host = _os_release().get("VERSION_CODENAME", "")
    layout = "$(REPO_URI) $(RELEASE)/$(COMPONENT)"
    lines: list[str] = []
    for target in _output("apt-get", "indextargets", f"--format={layout}"):
        uri, _, area = target.partition(" ")
        suffix = area.removeprefix(host)
        if area.startswith(host) and suffix in ("/main", "-updates/main", "-security/main"):
            line = f"deb {signed_by}{uri} {release}{suffix.replace('/', ' ')}"
            if line not in lines:
                lines.append(line)
    return lines


def _host_apt_options() -> list[str]:
    """How the host reaches its mirror: proxies, certificates, and whether dates are checked."""
    wanted = ("Acquire::Check-", "Acquire::http", "Acquire::https")
    return [
        line
        for line in _output("apt-config", "dump", "Acquire")
        if line.startswith(wanted) and not line.endswith(' "";')
    ]


def _os_release() -> dict[str, str]:
    pairs = (line.partition("=") for line in Path("/etc/os-release").read_text().splitlines())
    return {key: value.strip('"') for key, _, value in pairs}


def _output(*argv: str) -> list[str]:
    if shutil.which(argv[0]) is None:
        return []
    result = subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=True)
    return result.stdout.splitlines()
