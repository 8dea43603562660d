"""The completions, driven in a real bash through bash-completion's dynamic loading."""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from graced.app import settings
from graced.app.parser import parser
from graced.control import roll
from graced.ctl import clients, gracectl

COMPLETION = Path(__file__).parents[3] / "packaging" / "completion"
LIBRARY = Path("/usr/share/bash-completion/bash_completion")
BASH = shutil.which("bash")

pytestmark = pytest.mark.needs("bash", str(LIBRARY))

DRIVER = r"""
source "$1"
COMP_LINE=$2 COMP_POINT=${#2}
shift 2
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMPREPLY=()
if declare -F _comp_load >/dev/null; then _comp_load -- "$1"; else __load_completion "$1"; fi
[[ $(complete -p "$1") =~ -F\ ([^ ]+) ]] && "${BASH_REMATCH[1]}" "$1" "${!#}" "${@: -2:1}"
((${#COMPREPLY[@]} == 0)) || printf '%s\n' "${COMPREPLY[@]}"
"""


def complete(line: str, directory: Path) -> list[str]:
    """The proposals of bash when Tab is pressed behind `line`."""
    user = directory / "bash-completion"
    if not user.exists():
        user.mkdir()
        (user / "completions").symlink_to(COMPLETION)
    # As readline cuts it, at its $COMP_WORDBREAKS.
    words = [*re.findall(r"[=:]|[^\s=:]+", line), *([""] if line.endswith((" ", "=", ":")) else [])]
    assert BASH is not None
    done = subprocess.run(
        [BASH, "--norc", "-c", DRIVER, "driver", str(LIBRARY), line, *words],
        cwd=directory,
        env={"PATH": "/usr/bin:/bin", "BASH_COMPLETION_USER_DIR": str(user)},
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stderr == ""
    return sorted(done.stdout.splitlines())


def options(of: argparse.ArgumentParser) -> list[str]:
    return sorted(option for action in of._actions for option in action.option_strings)


def test_graced_has_its_options(tmp_path: Path) -> None:
    assert complete("graced ", tmp_path) == options(parser())
    assert complete("graced -d --log-level info --li", tmp_path) == ["--listen"]


def test_gracectl_has_the_commands_and_options_of_its_parser(tmp_path: Path) -> None:
    control = gracectl.parser()
    (commands,) = (
        action.choices
        for action in control._actions
        if isinstance(action, argparse._SubParsersAction)
    )
    assert complete("gracectl ", tmp_path) == sorted([*commands, *options(control)])
    for name, command in commands.items():
        assert complete(f"gracectl {name} -", tmp_path) == options(command)


@pytest.mark.parametrize(
    ("line", "proposed"),
    [
        ("graced -H ", ["echo", "echo-threaded"]),
        ("graced --handler=echo-", ["echo-threaded"]),
        ("graced --log-level ", sorted(settings.LOG_LEVELS)),
        ("graced --log-level=d", ["debug"]),
        ("graced -c ", ["a.toml", "conf.d"]),
        ("graced --config=a", ["a.toml"]),
        ("graced -p ", ["a.pid", "conf.d"]),
        ("graced -l ", []),
        ("graced --listen=localhost:", []),
        ("graced -g ", []),
        ("graced -i ", []),
        ("gracectl -i ", []),
        ("gracectl -i gauge pi", ["ping"]),
        ("gracectl -i gauge st", ["status"]),
        ("gracectl status --s", ["--socket"]),
        ("gracectl close ", []),
        ("gracectl close --ph", ["--phase"]),
        ("gracectl close --phase=in", ["in_handler"]),
        ("gracectl clients --so", ["--socket", "--sort"]),
        ("gracectl clients --sort ", sorted(clients.COLUMNS)),
        ("gracectl clients --sort=i", ["idle"]),
        ("gracectl clients --phase ", sorted([*roll.PHASES.values(), roll.IN_HANDLER])),
        ("gracectl clients --phase=w", ["write_blocked"]),
        ("gracectl clients --host ", []),
        ("gracectl clients --json --idle=", []),
        ("gracectl status --socket ", ["a.pid", "a.toml", "conf.d", "notes"]),
        ("graced --daemon=", []),
        ("gracectl pi", ["ping"]),
        ("gracectl ping ", []),
        ("gracectl ping localhost:9999 --j", ["--json"]),
        ("gracectl ping -c ", []),
        ("gracectl ping --size=", []),
        ("gracectl --version ", []),
    ],
)
def test_values_are_proposed_where_they_are_known(
    line: str, proposed: list[str], tmp_path: Path
) -> None:
    (tmp_path / "conf.d").mkdir()
    for name in ("a.toml", "a.pid", "notes"):
        (tmp_path / name).touch()
    listed = [name for name in complete(line, tmp_path) if name != "bash-completion"]
    assert listed == proposed
