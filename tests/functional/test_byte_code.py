"""The start of the installed programs with damaged byte code, see debian/byte-code."""

import compileall
import marshal
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import graced
from support.damage import DAMAGES, PAGE, Damage, hole
from support.process import CHECKOUT

PACKAGE = "dist-packages/graced"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A directory of modules with graced in it, byte-compiled."""
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(graced.__file__).parent, tmp_path / PACKAGE, ignore=ignore)
    assert compileall.compile_dir(tmp_path / PACKAGE, quiet=1)
    return tmp_path / "dist-packages"


def program(site: Path, module: str = "graced.__main__") -> list[str]:
    """The command of a program as debian/rules installs it, with modules from elsewhere."""
    script = (CHECKOUT / "debian" / "program.in").read_text().replace("@MODULE@", module)
    script = script.replace("/usr/share/graced", str(CHECKOUT / "debian"))
    return [sys.executable, "-Ic", f"import sys; sys.path.insert(0, {str(site)!r})\n{script}"]


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a command and return its exit status and output."""
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damaged_byte_code_is_reported_and_does_no_harm(site: Path, damage: Damage) -> None:
    for path in site.rglob("*.pyc"):
        path.write_bytes(damage(path.read_bytes()))
    checked = run(*program(site), "--check-config")
    assert (checked.returncode, "configuration is valid" in checked.stdout) == (0, True)
    reported = checked.stderr.splitlines()
    assert len(reported) > 20
    for line in reported:
        assert line.startswith(f"<4>{site}/graced/")
        assert ".pyc is damaged (" in line
        assert line.endswith("apt-get install --reinstall python3-graced")


def test_zeroed_page_is_noticed_anywhere(site: Path) -> None:
    # A byte of zero is no type of an object, so unmarshalling fails at the first object in the
    # page. There is none only if the page lies within one string or is the end of the file.
    for path in site.rglob("*.pyc"):
        data = path.read_bytes()
        for page in range(1, 1 + len(data) // PAGE):
            try:
                found = marshal.loads(hole(page)(data)[16:])
            except (EOFError, TypeError, ValueError):
                continue
            assert found == marshal.loads(data[16:]), (path, page)


def test_gracectl_starts_as_well(site: Path) -> None:
    (path,) = site.rglob("gracectl.*.pyc")
    path.write_bytes(path.read_bytes()[:-1])
    told = run(*program(site, "graced.ctl.gracectl"), "--version")
    assert told.stdout.startswith("gracectl ")
    assert told.stderr.startswith(f"<4>{path} is damaged (")


def test_sound_byte_code_is_not_reported(site: Path) -> None:
    assert run(*program(site), "--check-config").stderr == ""


def test_missing_and_outdated_byte_code_is_not_reported(site: Path) -> None:
    (one,) = site.rglob("poller.*.pyc")
    one.unlink()
    (site / "graced" / "loop" / "client.py").touch()
    assert run(*program(site), "--check-config").stderr == ""


def test_mistakes_in_source_are_shown(site: Path) -> None:
    with (site / "graced" / "loop" / "client.py").open("a") as file:
        file.write("def broken(:\n")
    checked = run(*program(site), "--check-config")
    assert checked.returncode == 1
    assert checked.stderr.splitlines()[-1].startswith("SyntaxError: ")


@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full"])
def test_stderr_that_takes_nothing_does_no_harm(site: Path, redirection: str) -> None:
    (path,) = site.rglob("poller.*.pyc")
    path.write_bytes(path.read_bytes()[:-1])
    command = ["sh", "-c", f'"$@" {redirection}', "sh", *program(site), "--check-config"]
    assert run(*command).returncode == 0
