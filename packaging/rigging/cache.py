"""What the rig builds once and keeps: root file systems, kernels, images, machines that run.

The cache lies outside the checkout: ``$GRACED_RIG_CACHE``, else ``graced-rig`` under
``$XDG_CACHE_HOME`` or ``~/.cache``. An entry's name ends in a digest of what the entry is made
from. An entry appears under its name only when complete, and two builders of the same entry wait
for each other.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

# Kinds of entries, each a directory of the cache.
KINDS = ("roots", "kernels", "images", "accelerators")


def directory() -> Path:
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


def entry(kind: str, name: str, made_from: Iterable[str], build: Callable[[Path], None]) -> Path:
    """The file or directory of that name, which ``build`` makes at the path that it is given.

    It is shared: nobody writes to it. What build raises leaves no entry behind.
    """
    digest = hashlib.sha256("\n".join(made_from).encode()).hexdigest()[:12]
    parent = directory() / kind
    parent.mkdir(exist_ok=True)
    finished = parent / f"{name}-{digest}"
    with locked(parent / f"{finished.name}.lock"):
        if not finished.exists():
            for unfinished in parent.glob(f".{finished.name}.*"):
                shutil.rmtree(unfinished)
            _build(finished, build)
    return finished


def entries() -> list[Path]:
    """All finished entries, sorted."""
    parents = [directory() / kind for kind in KINDS]
    found = [path for parent in parents if parent.exists() for path in parent.iterdir()]
    return sorted(p for p in found if not p.name.startswith(".") and p.suffix != ".lock")


def clear() -> None:
    """Remove all entries."""
    for kind in KINDS:
        shutil.rmtree(directory() / kind, ignore_errors=True)


def _build(finished: Path, build: Callable[[Path], None]) -> None:
    print(f"rig: building {finished.name} (once; kept in {finished.parent})", flush=True)
    began = time.monotonic()
    work = Path(tempfile.mkdtemp(prefix=f".{finished.name}.", dir=finished.parent))
    try:
        build(work / "unfinished")
        (work / "unfinished").rename(finished)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    print(f"rig: {finished.name} took {time.monotonic() - began:.0f} s", flush=True)
