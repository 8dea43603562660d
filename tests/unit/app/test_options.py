"""The command line, as getopt_long(3) would read it."""

from __future__ import annotations

import getopt
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from graced.app.options import OPTIONS, Option, help_text, parse
from graced.errors import UsageError
from support import CHECKOUT

LAST = [option for option in OPTIONS if option.key in {"--help", "--version"}]
OTHERS = [option for option in OPTIONS if option not in LAST]


@pytest.mark.parametrize(
    ("line", "result"),
    [
        ("", {}),
        ("--config FILE", {"--config": "FILE"}),
        ("--config=FILE", {"--config": "FILE"}),
        ("-c FILE", {"--config": "FILE"}),
        ("-cFILE", {"--config": "FILE"}),
        ("-d", {"--daemon": True}),
        ("-dt", {"--daemon": True, "--check-config": True}),
        ("-dcFILE", {"--daemon": True, "--config": "FILE"}),
        ("-dc FILE", {"--daemon": True, "--config": "FILE"}),
        ("-cd", {"--config": "d"}),
        ("-d --", {"--daemon": True}),
    ],
)
def test_the_ways_to_write_it(line: str, result: dict[str, Any]) -> None:
    assert parse(line.split()) == result


@pytest.mark.parametrize(
    ("argv", "value"),
    [
        (["--config="], ""),
        (["--config", ""], ""),
        (["-c", ""], ""),
        (["-c="], "="),
        (["--config=a=b"], "a=b"),
        (["--config", "-d"], "-d"),
        (["--config", "--help"], "--help"),
        (["-c", "--"], "--"),
        (["-c-"], "-"),
        (["-c", "-"], "-"),
        (["-c", "a b\n"], "a b\n"),
    ],
)
def test_everything_is_a_value(argv: list[str], value: str) -> None:
    assert parse(argv) == {"--config": value}


def test_the_last_one_wins() -> None:
    assert parse(["-c", "a", "--config=b"]) == {"--config": "b"}
    assert parse(["-dd", "--daemon"]) == {"--daemon": True}


def test_addresses_accumulate() -> None:
    assert parse(["-la", "--listen", "b", "-d", "--listen=a"])["--listen"] == ["a", "b", "a"]


def test_verbose_is_a_log_level() -> None:
    assert parse(["-v"]) == {"--log-level": "debug"}
    assert parse(["--log-level", "error", "-v"]) == {"--log-level": "debug"}
    assert parse(["-v", "--log-level", "error"]) == {"--log-level": "error"}


@pytest.mark.parametrize(
    ("text", "number"), [("5", 5), ("5.0", 5), ("0.5", 0.5), ("1e3", 1000), ("-1", -1), (" 7 ", 7)]
)
def test_grace_is_a_number(text: str, number: float) -> None:
    value = parse(["--grace", text])["--grace"]
    assert value == number
    assert type(value) is type(number)


@pytest.mark.parametrize("text", ["inf", "-inf", "nan", "1e999", "9" * 400])
def test_the_settings_judge_the_number(text: str) -> None:
    assert repr(parse(["--grace", text])["--grace"]) == repr(float(text))


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--foo"], "unknown option --foo"),
        (["--foo=bar"], "unknown option --foo"),
        (["--conf", "a"], "unknown option --conf"),
        (["--=a"], "unknown option --"),
        (["---"], "unknown option ---"),
        (["-x"], "unknown option -x"),
        (["-dx"], "unknown option -x"),
        (["-d-"], "unknown option --"),
        (["-d=1"], "unknown option -="),
        (["--config"], "option --config needs a value: FILE"),
        (["-c"], "option -c needs a value: FILE"),
        (["-dl"], "option -l needs a value: ADDRESS"),
        (["--daemon=1"], "option --daemon takes no value"),
        (["--daemon="], "option --daemon takes no value"),
        (["--help=me"], "option --help takes no value"),
        (["--grace", "soon"], "option --grace needs a number, not 'soon'"),
        (["-g1s"], "option -g needs a number, not '1s'"),
        (["--grace="], "option --grace needs a number, not ''"),
        (["foo"], "unexpected operand 'foo'"),
        (["-d", "foo", "-x"], "unexpected operand 'foo'"),
        (["-"], "unexpected operand '-'"),
        ([""], "unexpected operand ''"),
        (["--", "-d"], "unexpected operand '-d'"),
        (["--", "--"], "unexpected operand '--'"),
    ],
)
def test_a_mistake_is_named(argv: list[str], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(argv)
    assert str(caught.value) == f"{said} (see --help)"


@pytest.mark.parametrize("name", [name for option in LAST for name in option.names])
def test_help_and_version_end_the_reading(name: str) -> None:
    (last,) = (option for option in LAST if name in option.names)
    assert parse(["-d", name]) == parse(["-d", name, "--foo", "bar"])
    assert parse(["-d", name]) == {"--daemon": True, last.key: True}
    for mistake in (["--foo"], ["foo"], ["--daemon=1"], ["-g", "soon"]):
        with pytest.raises(UsageError):
            parse([*mistake, name])


def test_help_ends_the_reading_of_its_own_word_too() -> None:
    assert parse(["-dhx"]) == {"--daemon": True, "--help": True}


# Whatever is given, in whatever way.

texts = st.text(max_size=5) | st.sampled_from(["", "-", "--", "-d", "--help", "=", "a=b"])


@st.composite
def occurrences(draw: st.DrawFn) -> tuple[Option, str]:
    """An option and the text of its value."""
    option = draw(st.sampled_from(OTHERS))
    if not option.metavar:
        return option, ""
    return option, draw(st.integers().map(str) if option.key == "--grace" else texts)


def result(given: list[tuple[Option, str]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for option, text in given:
        if option.key == "--listen":
            found["--listen"] = [*found.get("--listen", []), text]
        elif option.key == "--grace":
            found["--grace"] = float(text)
        elif option.names == ["-v"]:
            found["--log-level"] = "debug"
        else:
            found[option.key] = text if option.metavar else True
    return found


@st.composite
def spellings(draw: st.DrawFn) -> tuple[list[str], dict[str, Any]]:
    """One of the many ways to write some options, and what they are."""
    given = draw(st.lists(occurrences(), max_size=8))
    argv: list[str] = []
    flags = False
    """Whether the last word consists of short flags."""
    for option, text in given:
        name = draw(st.sampled_from(option.names))
        short = not name.startswith("--")
        word = argv.pop() + name[1:] if short and flags and draw(st.booleans()) else name
        flags = short and not option.metavar
        if not option.metavar:
            argv.append(word)
        elif (text or not short) and draw(st.booleans()):
            argv.append(f"{word}{'' if short else '='}{text}")
        else:
            argv += [word, text]
    return argv + draw(st.sampled_from([[], ["--"]])), result(given)


@given(spellings())
def test_what_is_written_is_read(spelling: tuple[list[str], dict[str, Any]]) -> None:
    argv, meant = spelling
    assert parse(argv) == meant


NAMES = [name for option in OTHERS for name in option.names if option.key != "--grace"]
"""Those that take any text, and after which the reading goes on."""


def is_abbreviation(word: str) -> bool:
    stem = word.partition("=")[0]
    return stem.startswith("--") and any(name.startswith(stem) for name in {*NAMES} - {stem})


words = st.one_of(
    st.sampled_from(NAMES),
    st.sampled_from(NAMES).map(lambda name: f"{name}="),
    st.text("-=cdtvx", max_size=5).filter(lambda word: word == "--" or not is_abbreviation(word)),
    st.text(max_size=5).filter(lambda word: not is_abbreviation(word)),
)


@given(st.lists(words, max_size=6))
@example(["-d-"])
@example(["--"])
@example(["-cv", "--", "-v"])
def test_it_reads_what_getopt_reads(argv: list[str]) -> None:
    """The standard library follows the conventions too, apart from its abbreviations."""
    named = [(name, option) for option in OTHERS for name in option.names if name in NAMES]
    short = "".join(name[1] + ":" * bool(o.metavar) for name, o in named if name[1] != "-")
    long = [name[2:] + "=" * bool(o.metavar) for name, o in named if name[1] == "-"]
    try:
        found, operands = getopt.getopt(argv, short, long)
    except getopt.GetoptError:
        operands = argv
    if operands:
        with pytest.raises(UsageError):
            parse(argv)
    else:
        by_name = dict(named)
        assert parse(argv) == result([(by_name[name], text) for name, text in found])


# The help.


def test_the_help_describes_every_option_on_aligned_lines() -> None:
    usage, _, table = help_text().partition("options:\n")
    table, _, signals = table.partition("\n\n")
    assert usage.startswith("usage: graced ")
    assert signals.startswith("Signals: ")
    lines = table.splitlines()
    assert {line[30:32] for line in lines} == {"  "}
    shown = [line[2:30].rstrip() for line in lines if line[2:30].strip()]
    assert shown == [str(option) for option in OPTIONS]
    assert [" ".join(line[32:].split()) for line in lines] == [
        part for option in OPTIONS for part in option.help.split("\n")
    ]
    assert max(map(len, help_text().splitlines())) <= 98


def test_a_name_belongs_to_one_option() -> None:
    names = [name for option in OPTIONS for name in option.names]
    assert len(names) == len(set(names))


def test_it_costs_no_import() -> None:
    """The reason why it is not argparse."""
    code = "import sys, graced.app.options; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, 'daemon'); {code}"],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert not {"argparse", "getopt", "gettext", "re", "typing", "enum"} & set(done.stdout.split())
