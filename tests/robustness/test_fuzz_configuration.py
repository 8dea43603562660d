"""A configuration file with any content has a documented exit status and one line that says why."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import event, example, given
from hypothesis import strategies as st

from robustness.forge import Forge, Outcome
from robustness.fuzzing import CONFIG, LISTEN, OK, check, much
from robustness.scale import Dice, scaled
from support import CHECKOUT, run_graced

SHIPPED = (CHECKOUT / "etc/graced.toml").read_text()


EVERYTHING = "\n".join(line.removeprefix("#") for line in SHIPPED.splitlines() if "# " not in line)
KEYS = [
    line.removeprefix("#").partition(" = ")[0]
    for line in SHIPPED.splitlines()
    if line.startswith("#") and not line.startswith("# ") and " = " in line
]
SECTIONS = [line.strip("[]") for line in SHIPPED.splitlines() if line.startswith("[")]
numbers = st.one_of(
    st.integers().map(str),
    st.floats().map(str),
    st.integers(0, 1 << 70).map(hex),
    st.sampled_from(["inf", "-inf", "nan", "1e999", "-0.0", "0o17", "0b1", "1_000", "9" * 400]),
    st.integers(1, 6000).map(lambda digits: "9" * digits),
    st.integers(1, 6000).map(lambda digits: "0x" + "f" * digits),
)
strings = st.one_of(
    st.text(max_size=200).map(repr),
    st.text(max_size=50).map(lambda text: f'"{text}"'),
    st.text(max_size=50).map(lambda text: f'"""{text}"""'),
    st.sampled_from(
        [
            '"localhost:9999"',
            '"[::1]:0"',
            '"*:0"',
            '"unix:/run/x"',
            '"unix:x"',
            '"unix:/' + "x" * 200 + '"',
            '"[:0"',
            '":"',
            '"host:99999999999999999999"',
            '"h:\\u0661"',
            '"h\\u0000:1"',
            '"\\ud800"',
            '"é:1"',
            '"echo"',
            '"echo-threaded"',
            '"zz.nowhere:Class"',
            '":"',
            '"..:x"',
            '"json:"',
            '"json:decoder.JSONDecoder"',
            '"json.decoder:scanstring"',
            '"debug"',
            '"DEBUG"',
        ]
    ),
)
others = st.sampled_from(["true", "false", "1979-05-27T07:32:00Z", "07:32:00", "0000-00-00", "{}"])
values: st.SearchStrategy[str] = st.recursive(
    numbers | strings | others,
    lambda inner: st.lists(inner, max_size=5).map(lambda items: f"[{', '.join(items)}]"),
    max_leaves=8,
)
keys = st.sampled_from(KEYS) | st.text(max_size=10).map(repr)
sections = st.sampled_from(SECTIONS) | st.text(max_size=10).map(repr)
tables = st.builds(
    lambda section, pairs: f"[{section}]\n" + "".join(f"{k} = {v}\n" for k, v in pairs),
    sections,
    st.lists(st.tuples(keys, values), max_size=4),
)
sensible = st.lists(tables, max_size=4).map("".join)


@st.composite
def plausible(draw: st.DrawFn) -> bytes:
    """The shipped file with some keys in force, most of them with values that are allowed."""
    lines = []
    for line in EVERYTHING.splitlines():
        if line.startswith("["):
            lines.append(line)
        elif " = " in line and (choice := draw(st.integers(0, 20))) > 5:
            key, _, value = line.partition(" = ")
            lines.append(f"{key} = {draw(values) if choice == 20 else value}")
    return "\n".join(lines).encode("utf-8", "surrogatepass")


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """The shipped file with every key in it, and a few bytes that are not as they were."""
    text = bytearray(EVERYTHING.encode())
    for _ in range(draw(st.integers(1, 6))):
        place = draw(st.integers(0, len(text) - 1))
        text[place : place + draw(st.integers(0, 4))] = draw(st.binary(max_size=4))
    return bytes(text)


configurations = st.one_of(
    sensible.map(lambda text: text.encode("utf-8", "surrogatepass")),
    plausible(),
    mutated(),
    st.binary(max_size=300),
    st.text(max_size=300).map(lambda text: text.encode("utf-8", "surrogatepass")),
)


@much
@given(configurations)
@example(b"")
@example(EVERYTHING.encode())
@example(b"\xef\xbb\xbf")
@example(b"\xff")
@example(b"[limits]\nmax_clients = true")
@example(b"[shutdown]\ngrace_period = " + b"9" * 5000)
@example(b"[shutdown]\ngrace_period = 0x" + b"f" * 5000)
@example(b"[shutdown]\ngrace_period = 1" + b"0" * 400)
@example(b"[limits]\nmax_clients = 0x" + b"f" * 5000)
@example(b"server = " + b"[" * 5000)
@example(b"[server]\nhandler = " + b"{a=" * 2000)
@example(b'[server]\nlisten = ["h\\u2028:1"]')
@example(b'[server]\nlisten = "\xc3\xa9:1"')
@example(b'[server]\nhandler = "json:"')
@example(b'["\\n\\u001b[2J"]')
@example(b'[server]\n"\\n\\u001b[2J" = 1')
@example(b'[shutdown]\nfarewell = """\n\\u0000"""')
@example(b"server = 1")
@example(b"[[server]]")
def test_configurations(forge: Forge, place: Path, text: bytes) -> None:
    file = place / "graced.toml"
    file.write_bytes(text)
    outcome = forge.run("--check-config", "--config", str(file))
    event(f"status {outcome.status}")
    check(outcome, OK, CONFIG, LISTEN)


@pytest.mark.parametrize("number", range(scaled(3, 100)))
def test_configurations_in_separate_processes(number: int, place: Path) -> None:
    """The same by way of a shell, and served if it can be."""
    dice = Dice()
    text = bytearray(EVERYTHING.replace("localhost:9999", "127.0.0.1:0").encode())
    for _ in range(dice.randint(1, 4)):
        text[dice.randrange(len(text))] = dice.randrange(256)
    file = place / f"{number}.toml"
    file.write_bytes(text)
    run = run_graced("--check-config", "--config", str(file))
    note = f"{dice!r} {bytes(text)!r}"
    assert "Traceback" not in run.stderr, note
    outcome = Outcome(run.returncode, run.stdout if run.returncode else "", run.stderr)
    check(outcome, OK, CONFIG, LISTEN)


@pytest.mark.parametrize(
    ("make", "status"),
    [
        (lambda path: path.mkdir(), CONFIG),
        (lambda path: path.symlink_to("/nonexistent"), CONFIG),
        (lambda path: path.symlink_to(path), CONFIG),
        (lambda path: path.symlink_to("/dev/null"), OK),
        (lambda path: None, CONFIG),
    ],
    ids=["directory", "dangling link", "circular link", "device", "nothing"],
)
def test_kinds_of_configuration_files(
    forge: Forge, tmp_path: Path, make: Callable[[Path], None], status: int
) -> None:
    path = tmp_path / "graced.toml"
    make(path)
    check(forge.run("-t", "-c", str(path)), status)
