"""The packages under test, others made of them, and those of the release before."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from device import CHECKOUT

LAST_RELEASE = "b04abaf306071e90b4d94d524fdb8563798bb85a"
"""The commit of 0.1.0, whose modules were in archives."""

MODULES = "usr/lib/python3/dist-packages/graced"


class Packages:
    """The two packages of one version: the modules, and the program with its service."""

    def __init__(self, directory: Path) -> None:
        (self.library,) = directory.glob("python3-graced_*_all.deb")
        (self.program,) = directory.glob("graced_*_all.deb")

    def __iter__(self) -> Iterator[Path]:
        return iter((self.library, self.program))

    def rebuilt(
        self, directory: Path, version: str, more: Mapping[str, str] | None = None
    ) -> Packages:
        """The same as another version, in a new directory; `more` is text to append, by path."""
        directory.mkdir()
        for deb in self:
            tree = directory / deb.name.partition("_")[0]
            _run("dpkg-deb", "--raw-extract", str(deb), str(tree))
            control = tree / "DEBIAN" / "control"
            text = re.sub("^Version: .*", f"Version: {version}", control.read_text(), flags=re.M)
            text = re.sub(r"python3-graced \(= [^)]*\)", f"python3-graced (= {version})", text)
            control.write_text(text)
            for path, addition in (more or {}).items():
                if (tree / path).exists():
                    with (tree / path).open("a") as file:
                        file.write(addition)
            built = directory / f"{tree.name}_{version}_all.deb"
            _run("dpkg-deb", "--root-owner-group", "--build", str(tree), str(built))
        return Packages(directory)


def build_last_release(directory: Path) -> list[Path]:
    """Build the last release, with the tools of that time; needs the repository's history."""
    tree = directory / "tree"
    tree.mkdir()
    archive = directory / "tree.tar"
    command = ["git", "-c", "safe.directory=*", "-C", str(CHECKOUT)]
    _run(*command, "archive", f"--output={archive}", LAST_RELEASE)
    _run("tar", "--extract", f"--file={archive}", f"--directory={tree}")
    _run(str(tree / "packaging" / "build-deb"))
    return sorted((tree / "dist").glob("*.deb"))


def _run(*argv: str) -> None:
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
