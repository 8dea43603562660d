"""Root file systems of Debian releases, built with mmdebstrap and kept in a cache.

The cache lies outside the checkout: ``$GRACED_RIG_CACHE``, else ``graced-rig`` under
``$XDG_CACHE_HOME`` or ``~/.cache``. An entry's name holds the release, the purpose and a digest
of everything it is made from, so a changed package list is a new entry. An entry appears under
its name only when complete, and two builders of the same one wait for each other.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from rigging.errors import RigError

RELEASES = ("bookworm", "trixie")

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
    "debhelper",
    "dh-python",
    "git",
    "lintian",
    "make",
    "mandoc",
    "piuparts",
    "procps",
    "pybuild-plugin-pyproject",
    "python3-all",
    "python3-hypothesis",
    "python3-pytest",
    "python3-setuptools",
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


def cache_dir() -> Path:
    """The cache's directory, made if need be."""
    chosen = os.environ.get("GRACED_RIG_CACHE")
    if chosen:
        path = Path(chosen)
    else:
        path = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "graced-rig"
    path.mkdir(mode=0o755, parents=True, exist_ok=True)
    return path.resolve()


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on the file at path, which is made if need be."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def root(release: str, purpose: str = "device") -> Path:
    """The unpacked root file system for a release, from the cache or built now.

    It is shared: nobody writes to it. Raises RigError when mmdebstrap fails.
    """
    packages = PURPOSES[purpose]
    made_from = "\n".join((_RECIPE, release, os.uname().machine, *_CUSTOMIZE, *packages))
    digest = hashlib.sha256(made_from.encode()).hexdigest()[:12]
    roots = cache_dir() / "roots"
    roots.mkdir(exist_ok=True)
    entry = roots / f"{release}-{purpose}-{digest}"
    with locked(roots / f"{entry.name}.lock"):
        if not entry.exists():
            for unfinished in roots.glob(f".{entry.name}.*"):
                shutil.rmtree(unfinished)
            _build(release, packages, entry)
    return entry


def _build(release: str, packages: tuple[str, ...], entry: Path) -> None:
    print(f"rig: building {entry.name} (once; kept in {entry.parent})", flush=True)
    work = Path(tempfile.mkdtemp(prefix=f".{entry.name}.", dir=entry.parent))
    unfinished = work / "root"
    # In namespaces of its own, so that an interrupt leaves neither processes nor mounts behind:
    # removing a half-built tree with a live /sys in it would be no joke.
    argv = ["setpriv", "--pdeathsig=KILL", "unshare", "--mount", "--pid", "--mount-proc"]
    argv += ["--fork", "--kill-child"]
    argv += ["mmdebstrap", "--variant=minbase", "--format=directory", "--mode=root"]
    argv += [f"--include={','.join(packages)}"]
    argv += [f"--aptopt={option}" for option in _host_apt_options()]
    argv += [f"--customize-hook={hook}" for hook in _CUSTOMIZE]
    argv += [release, str(unfinished), *_sources(release)]
    try:
        result = subprocess.run(argv, capture_output=True, text=True, check=False)
        if result.returncode != 0:
            tail = "\n".join(result.stderr.splitlines()[-20:])
            raise RigError(f"mmdebstrap could not build {entry.name}:\n{tail}")
        unfinished.chmod(0o755)
        unfinished.rename(entry)
    finally:
        shutil.rmtree(work, ignore_errors=True)


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
