"""Any command line and any environment has a documented exit status and one line that says why."""

from __future__ import annotations

import pytest
from hypothesis import event, example, given
from hypothesis import strategies as st

from robustness.forge import Forge
from robustness.fuzzing import CONFIG, LISTEN, OK, USAGE, check, check_served, some

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
        ("unix:/", USAGE),
        ("é" + "a" * 80 + ":1", LISTEN),
        ("a" * 300 + ":1", LISTEN),
        ("..:1", LISTEN),
        ("[fe80::1%nowhere]:1", LISTEN),
        ("224.0.0.1:0", USAGE),
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


def test_stop_signal_that_waits_before_start(forge: Forge) -> None:
    """What the other tests build on: one drain, from whatever moment."""
    outcome = forge.run("-l", "127.0.0.1:0")
    check_served(outcome)
    assert outcome.err.count("received, closing in") == 1
