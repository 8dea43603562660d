"""The manual agrees with the program, and is sound mdoc(7)."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

from graced import errors
from graced.app.parser import parser
from graced.app.settings import KEEP, SETTINGS, Setting
from graced.ctl import control, gracectl
from graced.signals import WATCHED

MAN = Path(__file__).parents[2] / "packaging" / "man"
PAGES = sorted(MAN.glob("*.[0-9]"))


def entries(page: str) -> dict[str, str]:
    """The entry of each key in graced.toml(5): ``section.name`` and the mdoc(7) behind it."""
    found: dict[str, str] = {}
    for section, body in re.findall(
        r"^\.Sh \[(\w+)\]\\&\n(.*?)^\.El$(?=\n\.Sh)", page, re.S | re.M
    ):
        for name, text in re.findall(r"^\.It Ic (\w+)\n(.*?)(?=^\.It Ic |\Z)", body, re.S | re.M):
            found[f"{section}.{name}"] = text
    return found


ENTRIES = entries((MAN / "graced.toml.5").read_text())


def accepts(setting: Setting, value: Any) -> bool:
    try:
        setting.check(value)
    except ValueError:
        return False
    return True


def test_every_key_is_described_and_no_other() -> None:
    assert list(ENTRIES) == [setting.key for setting in SETTINGS]


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.key)
def test_default_of_a_key_is_described(setting: Setting) -> None:
    (default,) = re.findall(r"^The default is\n\.Li (.*?)(?: [.,])?$", ENTRIES[setting.key], re.M)
    assert tomllib.loads("it = " + default.replace(r"\(dq", '"')) == {"it": setting.default}


@pytest.mark.parametrize(
    "setting",
    [setting for setting in SETTINGS if isinstance(setting.default, int | float)],
    ids=lambda setting: setting.key,
)
def test_range_of_a_number_is_described(setting: Setting) -> None:
    text = " ".join(ENTRIES[setting.key].split())
    if isinstance(setting.default, bool):
        assert "true or false" in text
        return
    (kind, low, high) = re.findall(r"(whole number|seconds) from (\d+) to (\d+)", text)[0]
    assert accepts(setting, int(low))
    assert accepts(setting, int(high))
    assert not accepts(setting, int(low) - 1)
    assert not accepts(setting, int(high) + 1)
    assert accepts(setting, int(high) - 0.5) == (kind == "seconds")


def options(parser: argparse.ArgumentParser) -> set[str]:
    return {option for action in parser._actions for option in action.option_strings}


def described(page: str) -> set[str]:
    """The options that a page has an item for."""
    items = re.findall(r"^\.It (Fl .*)$", (MAN / page).read_text(), re.M)
    return {f"-{name}" for item in items for name in re.findall(r"Fl (\S+)", item)}


def test_every_option_is_described_and_no_other() -> None:
    assert described("graced.8") == options(parser())
    control = gracectl.parser()
    (commands,) = (
        action.choices
        for action in control._actions
        if isinstance(action, argparse._SubParsersAction)
    )
    assert described("gracectl.1") == options(control).union(*map(options, commands.values()))


def test_every_exit_status_is_described() -> None:
    def statuses(page: str) -> set[int]:
        (section,) = re.findall(
            r"^\.Sh EXIT STATUS\n(.*?)^\.El", (MAN / page).read_text(), re.S | re.M
        )
        return {int(number) for number in re.findall(r"^\.It (\d+)$", section, re.M)}

    family: list[type[errors.GracedError]] = [
        errors.GracedError,
        *errors.GracedError.__subclasses__(),
    ]
    assert statuses("graced.8") == {0, errors.HANDED_OVER, *(error.status for error in family)}
    assert statuses("gracectl.1") == {
        gracectl.ALL_BACK,
        gracectl.SOME_LOST,
        2,
        gracectl.GOING_OFFLINE,
        gracectl.NO_CONNECTION,
        control.FAILED,
        control.UNAVAILABLE,
        control.NOT_PERMITTED,
    }


def test_every_signal_is_described() -> None:
    (section,) = re.findall(
        r"^\.Sh SIGNALS\n(.*?)^\.El", (MAN / "graced.8").read_text(), re.S | re.M
    )
    items = re.findall(r"^\.It Dv (.*)$", section, re.M)
    assert {name for item in items for name in item.split(" , ")} == {s.name for s in WATCHED}


def test_every_value_of_keep_is_described() -> None:
    (setting,) = [setting for setting in SETTINGS if setting.key == "continuity.keep"]
    named = re.findall(r"^\.It Cm (\w+)$", ENTRIES[setting.key], re.M)
    assert named == list(KEEP)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
@pytest.mark.parametrize(
    "command",
    [
        # What lintian runs (its tag groff-message says so).
        pytest.param(
            ["man", "--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z"],
            marks=pytest.mark.needs("man"),
            id="man",
        ),
        pytest.param(
            ["mandoc", "-T", "lint", "-W", "warning"],
            marks=pytest.mark.needs("mandoc"),
            id="mandoc",
        ),
    ],
)
def test_page_is_sound(command: list[str], page: Path) -> None:
    done = subprocess.run(
        [*command, str(page)],
        env={**os.environ, "LC_ALL": "C.UTF-8", "MANROFFSEQ": "", "MANWIDTH": "80"},
        check=False,
        capture_output=True,
        text=True,
    )
    said = done.stderr if command[0] == "man" else done.stdout
    assert said == ""
    assert done.returncode == 0
