"""Whatever a configuration, a command line, an environment or a pidfile holds: only the exit
statuses that are documented, and one line that says why.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, event, example, given, settings
from hypothesis import strategies as st

from robustness.forge import Forge, Outcome
from robustness.scale import Dice, scaled
from support import CHECKOUT, run_graced

OK, FAILED, USAGE, LISTEN, PIDFILE, RUNNING, CONFIG = 0, 1, 2, 69, 73, 75, 78

much = settings(
    max_examples=scaled(300, 50_000),
    deadline=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)
some = settings(much, max_examples=scaled(150, 5_000))

Decide = Callable[[Callable[..., Any]], Callable[..., Any]]


@pytest.fixture(scope="module")
def forge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forge]:
    directory = tmp_path_factory.mktemp("forge")
    with Forge(directory) as forge:
        yield forge


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("place")


def check(outcome: Outcome, *allowed: int) -> None:
    """One of these statuses, and the one line that goes with it."""
    status, out, err = outcome
    assert status in allowed, outcome
    assert "Traceback" not in out + err
    if status == OK:
        assert "graced: " not in err
    else:
        assert err.startswith("graced: "), outcome
        assert err.endswith("\n"), outcome
        assert len(err.splitlines()) == 1, outcome
        assert len(err) < 2000, outcome
        assert out == ""


# Configurations.

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
def test_configurations_of_a_process_of_its_own(number: int, place: Path) -> None:
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


# Command lines.

words = st.one_of(
    st.sampled_from(
        [
            *("-c", "--config", "-l", "--listen", "-g", "--grace", "-H", "--handler", "-t"),
            *("--log-level", "-v", "--check-config", "--gr", "-gx", "--grace=", "--", "-", ""),
            *("0", "0.01", "-1", "1e3", "inf", "nan", "1e999", "0x1", "1_0", "٣", "debug"),
            *("127.0.0.1:0", "[::1]:0", "127.0.0.1:1", "[::2]:0", "*:0", "unix:/nonexistent/x"),
            *("unix:", "unix:/", "[::1", ":", ":0", "192.0.2.1:0", "127.0.0.1:65536", "999:1"),
            *("echo", "echo-threaded", "zz:zz", "json:", "nope", "/nonexistent", "/dev/null"),
            *("a\nb", "\x1b[2J", "\udcff", "%s", "%(prog)s", "{}", "é"),
        ]
    ),
    st.text(
        st.characters(blacklist_characters="\0/.:@-", blacklist_categories=["Cs"]), max_size=20
    ),
)


@some
@given(st.lists(words, max_size=6))
@example(["a\nb"])
@example(["-c", "a\nb"])
@example(["-l", "a\nb:1"])
@example(["-H", "a\nb"])
@example(["-g", "nan"])
@example(["-g", "1e999"])
@example(["\udcff"])
@example(["-c", "\udcff"])
@example(["\u2028"])
@example(["-c", "\u2029"])
@example(["-H", "\x85"])
def test_command_lines(forge: Forge, arguments: list[str]) -> None:
    # What makes sense is only read: a name that is to be listened on would be looked up.
    outcome = forge.run(*arguments, "--print-config")
    check(outcome, OK, USAGE, CONFIG, LISTEN)


@some
@given(
    st.lists(st.sampled_from(["127.0.0.1:0", "[::1]:0", "127.0.0.2:0", "*:0"]), max_size=3),
    st.sampled_from(["0", "0.001", "5"]),
    st.sampled_from(["echo", "echo-threaded"]),
    st.sampled_from(["debug", "info", "warning", "error"]),
)
def test_command_lines_that_serve(
    forge: Forge, addresses: list[str], grace: str, handler: str, level: str
) -> None:
    listen = [word for address in addresses or ["127.0.0.1:0"] for word in ("-l", address)]
    outcome = forge.run(*listen, "-g", grace, "-H", handler, "--log-level", level)
    check(outcome, OK)
    assert ("stopped after" in outcome.err) == (level in {"debug", "info"})


@pytest.mark.parametrize(
    ("address", "status"),
    [
        ("192.0.2.1:0", OK),
        ("unix:/nonexistent/socket", LISTEN),
        ("unix:/", LISTEN),
        ("é" + "a" * 80 + ":1", LISTEN),
        ("a" * 300 + ":1", LISTEN),
        ("..:1", LISTEN),
        ("[fe80::1%nowhere]:1", LISTEN),
        ("224.0.0.1:0", OK),
    ],
)
def test_addresses(forge: Forge, address: str, status: int) -> None:
    check(forge.run("-l", address), status)


# The environment.

texts = st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), max_size=30)
digits = st.one_of(
    st.integers(-3, 70_000).map(str),
    st.integers().map(str),
    st.sampled_from(["0", "00", "01", "+1", " 1", "1 ", "1.0", "1e3", "0x1", "٣", "", "nan", "-"]),
    st.integers(1, 6000).map(lambda number: "0" * number + "1"),
    st.integers(1, 6000).map(lambda number: "9" * number),
    texts,
)
sockets = st.one_of(
    texts,
    st.sampled_from(
        [
            *("@", "@graced-nobody", "/", "/nonexistent", "/dev/null", "x" * 200, "/" + "x" * 107),
            *("@" + "x" * 107, "@" + "x" * 108, "vsock:2:1234", "vsock:", "relative", " "),
        ]
    ),
)
variables = st.fixed_dictionaries(
    {},
    optional={
        "LISTEN_FDS": digits,
        "LISTEN_PID": st.just("{pid}") | digits,
        "LISTEN_FDNAMES": texts,
        "NOTIFY_SOCKET": sockets,
        "WATCHDOG_USEC": digits,
        "WATCHDOG_PID": st.just("{pid}") | digits,
        "JOURNAL_STREAM": texts | st.sampled_from(["0:0", "8:", ":", "1:2:3"]),
    },
)


@some
@given(variables, st.booleans(), st.lists(st.integers(0, 3), max_size=4))
@example({"NOTIFY_SOCKET": "/nonexistent", "WATCHDOG_USEC": "0" * 19 + "1" + "0" * 5000}, False, [])
@example({"NOTIFY_SOCKET": "/nonexistent", "WATCHDOG_USEC": "8000000000000"}, False, [])
@example({"NOTIFY_SOCKET": "/nonexistent", "WATCHDOG_USEC": "9223372036854775807"}, False, [])
@example({"LISTEN_PID": "{pid}", "LISTEN_FDS": "2"}, False, [3, 3])
@example({"LISTEN_PID": "{pid}", "LISTEN_FDS": "1"}, False, [3, 0])
@example({"LISTEN_PID": "{pid}", "LISTEN_FDS": "99999"}, False, [3])
@example({"LISTEN_PID": "{pid}", "LISTEN_FDS": "1"}, False, [2])
@example({"LISTEN_PID": "{pid}", "LISTEN_FDS": "1"}, False, [1])
@example({"LISTEN_PID": "{pid}", "LISTEN_FDS": "1"}, False, [0])
@example({"LISTEN_PID": "{pid}", "LISTEN_FDS": "1"}, False, [])
def test_environments(forge: Forge, env: dict[str, str], journal: bool, passed: list[int]) -> None:
    outcome = forge.run("-l", "127.0.0.1:0", env=env, journal=journal, fds=passed)
    event(f"status {outcome.status}")
    check_served(outcome, LISTEN)
    if outcome.status == OK and env.get("LISTEN_PID") == "{pid}" and env.get("LISTEN_FDS") == "1":
        assert passed[0] == 3, "served by something that is not listening"


def check_served(outcome: Outcome, *allowed: int) -> None:
    """Served, and then at most warned; or refused with one line."""
    assert "Traceback" not in outcome.err
    if outcome.status == OK:
        assert "stopped after" in outcome.err
        assert all(line.startswith("<") for line in outcome.err.splitlines()), outcome
        return
    assert outcome.status in allowed, outcome
    lines = [line for line in outcome.err.splitlines() if not line.startswith(("<4>", "<6>"))]
    assert len(lines) == 1, outcome


def test_a_stop_signal_that_waits_before_the_start(forge: Forge) -> None:
    """What the other tests build on: one drain, from whatever moment."""
    outcome = forge.run("-l", "127.0.0.1:0")
    check_served(outcome)
    assert outcome.err.count("received, closing in") == 1


# Pidfiles.


@some
@given(st.binary(max_size=100), st.sampled_from([0o644, 0o600, 0o400, 0o000, 0o666]))
@example(b"", 0o644)
@example(b"1\n", 0o644)
@example(b"99999999999999999999999\n", 0o644)
@example(b"-1\n", 0o644)
@example(b"\xff\0\n", 0o644)
def test_pidfiles_that_somebody_left(forge: Forge, place: Path, content: bytes, mode: int) -> None:
    path = place / "left.pid"
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    path.write_bytes(content)
    path.chmod(mode)
    outcome = forge.run("-l", "127.0.0.1:0", "-p", str(path))
    check_served(outcome, PIDFILE)
    assert path.exists() == (outcome.status != OK)
    if outcome.status != OK:
        path.chmod(0o600)
        assert path.read_bytes() == content


@some
@given(st.binary(max_size=100))
@example(b"\xd9\xa3\n")
@example(b"12\x1b[2J")
@example(b"1\n2\n")
def test_pidfile_of_a_running_daemon(forge: Forge, place: Path, content: bytes) -> None:
    import fcntl

    path = place / "running.pid"
    path.write_bytes(content)
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        check(forge.run("-l", "127.0.0.1:0", "-p", str(path)), RUNNING)
    assert path.read_bytes() == content


def _victim(path: Path) -> Path:
    victim = path.with_name("victim")
    victim.write_bytes(b"precious\n")
    return victim


def _link(path: Path) -> None:
    path.symlink_to(_victim(path))


def _hard_link(path: Path) -> None:
    os.link(_victim(path), path)


def _dangling_link(path: Path) -> None:
    path.symlink_to(path.with_name("new"))


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))


def _open_directory(path: Path) -> None:
    path.parent.chmod(0o777)


def _sticky_directory(path: Path) -> None:
    path.parent.chmod(0o1777)


def _no_directory(path: Path) -> None:
    path.parent.rmdir()
    path.parent.write_bytes(b"")


def _foreign(path: Path) -> None:
    """Of another user, or, where we may not make one, not for us to write."""
    path.write_bytes(b"1\n")
    if os.geteuid() == 0:
        os.chown(path, 65534, 65534)
        path.chmod(0o666)
    else:
        path.chmod(0o444)


ATTACKS: dict[str, Callable[[Path], None]] = {
    "link": _link,
    "hard link": _hard_link,
    "dangling link": _dangling_link,
    "circular link": lambda path: path.symlink_to(path),
    "directory": Path.mkdir,
    "fifo": os.mkfifo,
    "socket": _socket,
    "file of another user": _foreign,
    "in a directory of everybody": _open_directory,
    "in a sticky directory of everybody": _sticky_directory,
    "in no directory": lambda path: path.parent.rmdir(),
    "in a file": _no_directory,
}


@pytest.mark.parametrize("daemon", [False, True], ids=["foreground", "daemon"])
@pytest.mark.parametrize("attack", ATTACKS.values(), ids=list(ATTACKS))
def test_other_files_in_the_place_of_a_pidfile(
    tmp_path: Path, attack: Callable[[Path], None], daemon: bool
) -> None:
    path = tmp_path / "run" / "graced.pid"
    path.parent.mkdir()
    attack(path)
    before = _contents(tmp_path)
    options = ["--daemon"] if daemon else []
    run = run_graced("-l", "127.0.0.1:0", "-p", str(path), *options)
    check(Outcome(run.returncode, run.stdout, run.stderr), PIDFILE)
    assert str(path) in run.stderr
    assert _contents(tmp_path) == before, "something was followed or overwritten"


def test_a_pidfile_of_many_letters(forge: Forge, tmp_path: Path) -> None:
    check(forge.run("-l", "127.0.0.1:0", "-p", str(tmp_path / ("x" * 300))), PIDFILE)
    check(forge.run("-l", "127.0.0.1:0", "-p", str(tmp_path / "no\nwhere" / "x")), PIDFILE)


def _contents(directory: Path) -> dict[str, tuple[str, int, bytes]]:
    """Everything below, with its kind, mode and content."""
    found = {}
    for path in sorted(directory.rglob("*")):
        status = path.lstat()
        content = path.read_bytes() if stat.S_ISREG(status.st_mode) else b""
        if path.is_symlink():
            content = os.fsencode(os.readlink(path))
        found[str(path)] = (stat.filemode(status.st_mode), status.st_uid, content)
    return found
