"""Packages with a handler and a service of its own, made of the example."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from device import CHECKOUT

EXAMPLE = CHECKOUT / "tests" / "device" / "example-handler"
PORTS = {"upper": 9998, "lower": 9996}


def build_example(directory: Path, name: str = "upper", version: str = "1.0") -> Path:
    """Build the package ``graced-NAME``; any other name than upper answers in lower case."""
    tree = directory / f"{name}-{version}"
    shutil.copytree(EXAMPLE, tree, ignore=shutil.ignore_patterns("__pycache__"))
    new = {
        "upper": name,
        "Upper": name.capitalize(),
        f":{PORTS['upper']}": f":{PORTS[name]}",
        "Version: 1.0": f"Version: {version}",
    }
    # The deepest first: a directory is renamed after what is in it.
    for path in sorted(tree.rglob("*"), reverse=True):
        if path.is_file():
            text = path.read_text()
            for old, replacement in new.items():
                text = text.replace(old, replacement)
            path.write_text(text)
        path.rename(path.with_name(path.name.replace("upper", name)))
    subprocess.run(["sh", str(tree / "build"), str(directory)], check=True)
    (built,) = directory.glob(f"graced-{name}_{version}_all.deb")
    return built
