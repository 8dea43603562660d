"""The command line of graced(8)."""

from __future__ import annotations

import re
import subprocess
import sys
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graced import __version__
from graced.app.command_line import Given, parse, read_plain
from graced.app.options import OPTIONS, Option
from graced.app.parser import parser
from graced.app.settings import BY_KEY, CONFIG_FILE, LOG_LEVELS, PID_FILE
from graced.errors import UsageError
from graced.signals import WATCHED
from support import CHECKOUT

UNIT = (CHECKOUT / "systemd" / "graced.service").read_text()
SERVICE = re.findall(r"^ExecStart=\S+ (.*)$", UNIT, re.M)
ACTIONS = [action for action in parser()._actions if action.dest not in {"help", "version"}]


def given_by(line: str) -> dict[str, Any]:
    """The options of a command line, without their defaults."""
    found = vars(parse(line.split()))
    overrides = found.pop("overrides")
    return {**found, **dict(overrides.values())}


@pytest.mark.parametrize(
    ("line", "result"),
    [
        ("", {}),
        ("--config FILE", {"config": "FILE"}),
        ("--config=FILE", {"config": "FILE"}),
        ("-c FILE", {"config": "FILE"}),
        ("-cFILE", {"config": "FILE"}),
        ("-d", {"daemon": True}),
        ("-dt", {"daemon": True, "check_config": True}),
        ("-dcFILE", {"daemon": True, "config": "FILE"}),
        ("-dc FILE", {"daemon": True, "config": "FILE"}),
        ("-cd", {"config": "d"}),
        ("--config=", {"config": ""}),
        ("--config=-d", {"config": "-d"}),
        ("-c -", {"config": "-"}),
        ("-c a --config=b", {"config": "b"}),
        ("--print-config", {"print_config": True}),
        ("-p PATH", {"--pid-file": "PATH"}),
        ("-la --listen b -d --listen=a", {"--listen": ["a", "b", "a"], "daemon": True}),
    ],
)
def test_spellings_of_options(line: str, result: dict[str, Any]) -> None:
    assert given_by(line) == result


def test_options_that_are_not_given_have_defaults() -> None:
    found = parse([])
    assert found == Given(overrides={})
    assert (found.config, found.daemon, found.check_config, found.print_config) == (
        *(None, False, False),
        False,
    )


def test_v_is_the_log_level_debug() -> None:
    assert given_by("-v") == {"--log-level": "debug"}
    assert given_by("--log-level error -v") == {"--log-level": "debug"}
    assert given_by("-v --log-level error") == {"--log-level": "error"}


def test_overrides_name_the_key_and_the_option() -> None:
    assert parse(["-g1", "-Hecho"]).overrides == {
        "server.handler": ("--handler", "echo"),
        "shutdown.grace_period": ("--grace", 1),
    }


@pytest.mark.parametrize(
    ("text", "number"), [("5", 5), ("5.0", 5), ("0.5", 0.5), ("1e3", 1000), ("-1", -1), (" 7 ", 7)]
)
def test_grace_is_a_number(text: str, number: float) -> None:
    _, value = parse(["--grace", text]).overrides["shutdown.grace_period"]
    assert value == number
    assert type(value) is type(number)


@pytest.mark.parametrize("text", ["inf", "-inf", "nan", "1e999", "9" * 400])
def test_settings_judge_the_number(text: str) -> None:
    _, value = parse([f"--grace={text}"]).overrides["shutdown.grace_period"]
    assert repr(value) == repr(float(text))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--foo", "unrecognized arguments: --foo"),
        ("--foo=bar", "unrecognized arguments: --foo=bar"),
        ("--conf a", "unrecognized arguments: --conf a"),
        ("--grac=1", "unrecognized arguments: --grac=1"),
        ("-x", "unrecognized arguments: -x"),
        ("foo", "unrecognized arguments: foo"),
        ("-d foo", "unrecognized arguments: foo"),
        ("--config", "argument -c/--config: expected one argument"),
        ("-dl", "argument -l/--listen: expected one argument"),
        ("--grace soon", "argument -g/--grace: 'soon' is not a number"),
        ("-g1s", "argument -g/--grace: '1s' is not a number"),
        ("--daemon=1", "argument -d/--daemon: ignored explicit argument '1'"),
    ],
)
def test_mistake_is_named_in_one_line(line: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(line.split())
    assert str(caught.value) == f"{said} (see --help)"


LONG = [name for action in ACTIONS for name in action.option_strings if name.startswith("--")]


@given(st.sampled_from(LONG), st.integers(3, 12))
def test_no_option_can_be_abbreviated(name: str, length: int) -> None:
    word = name[:length]
    if word not in LONG:
        with pytest.raises(UsageError):
            parse([f"{word}=1"])


@given(st.lists(st.text("-=cdtvgx1 ", max_size=6), max_size=6))
def test_any_command_line_is_read_or_refused(argv: list[str]) -> None:
    with suppress(UsageError):
        assert set(parse(argv).overrides) <= set(BY_KEY)


# The help.


def help_text(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("COLUMNS", "500")
    return parser().format_help()


def test_help_has_the_default_of_every_option(monkeypatch: pytest.MonkeyPatch) -> None:
    text = help_text(monkeypatch)
    for default in (CONFIG_FILE, PID_FILE, "foreground", "localhost:9999", "5", "echo", "info"):
        assert f"(default: {default}" in text
    assert ", ".join(LOG_LEVELS) in text


def test_help_describes_every_option() -> None:
    assert [action.option_strings for action in ACTIONS if not action.help] == []


def test_help_names_every_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, signals = help_text(monkeypatch).partition("signals:\n")
    for signum in WATCHED:
        assert signum.name.removeprefix("SIG") in signals


def test_help_fits_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    assert max(map(len, parser().format_help().splitlines())) <= 100


@pytest.mark.parametrize(("option", "said"), [("--version", f"graced {__version__}\n"), ("-h", "")])
def test_help_and_version_end_the_reading(
    option: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(["-d", option, "--foo"])
    assert not caught.value.code
    assert capsys.readouterr().out.startswith(said or "usage: graced ")


def modules_to_parse(arguments: list[str]) -> set[str]:
    """The modules that reading a command line imports."""
    code = (
        "import sys; before = set(sys.modules); from graced.app import command_line;"
        "command_line.parse(sys.argv[1:]); print(*set(sys.modules) - before)"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", code, *arguments],
        env={"PYTHONPATH": str(CHECKOUT / "daemon")},
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.split())


def test_command_line_is_read_without_shutil() -> None:
    """Its import takes about as long as that of `argparse`."""
    imported = modules_to_parse(["-dv"])
    assert "argparse" in imported
    assert not {"shutil", "typing", "dataclasses", "bz2"} & imported


@pytest.mark.parametrize("line", ["", *SERVICE, "-l 127.0.0.1:0 -g 5 --handler echo -p /x -v"])
def test_plain_command_line_is_read_without_argparse(line: str) -> None:
    assert not {"argparse", "gettext", "re"} & modules_to_parse(line.split())


FLAGS = [flag for option in OPTIONS for flag in option.flags]
VALUES = st.sampled_from(
    ["1", "0.5", "x", "", "-", "-1", "--", "echo", " ", "=", "nan", "--grace=1"]
)


@given(st.lists(st.sampled_from(FLAGS) | VALUES, max_size=6))
def test_plain_command_line_means_the_same_to_argparse(argv: list[str]) -> None:
    given = read_plain(argv)
    if given is not None:
        assert repr(given) == repr(vars(parser().parse_args(argv)))


@given(st.permutations(OPTIONS), st.sampled_from(["1", "a b", "x=y"]))
def test_options_in_words_of_their_own_are_plain(options: list[Option], value: str) -> None:
    argv = []
    for option in options:
        argv.append(option.flags[-1])
        if option.action != "store_const":
            argv.append("7" if option.action == "number" else value)
    assert read_plain(argv) is not None
