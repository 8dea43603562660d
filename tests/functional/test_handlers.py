"""Handlers of users: what they may rely on, and what they cannot break."""

from __future__ import annotations

import re
import threading
from contextlib import ExitStack
from pathlib import Path
from signal import SIGTERM

import pytest

from support import FAREWELL, Graced, run_graced

WRITTEN = '[shutdown]\nfarewell = "SHUTDOWN"'
"""A farewell in the configuration counts for every handler."""


def plugin(name: str) -> tuple[str, str]:
    return ("--handler", f"support.handlers:{name}")


def test_lines_through_files_of_socketserver() -> None:
    with (
        Graced(*plugin("ShoutingHandler"), "--grace", "30", config=WRITTEN) as graced,
        graced.connect() as client,
    ):
        client.send(b"hello\nwor")
        assert client.recv_exactly(6) == b"HELLO\n"
        client.send(b"ld\n")
        assert client.recv_exactly(6) == b"WORLD\n"
        graced.signal(SIGTERM)
        client.expect_farewell_alone()
        client.send(b"bye\n")
        assert client.recv_exactly(4) == b"BYE\n"
        client.close()
        assert graced.wait() == 0
        assert graced.log.count("16 bytes echoed") + graced.log.count("22 bytes echoed") == 1


def test_less_usual_calls_of_socket() -> None:
    with (
        Graced(*plugin("CallingHandler"), "--grace", "30", config=WRITTEN) as graced,
        graced.connect() as client,
    ):
        for _ in range(10):
            client.echo(b"hello")
        graced.signal(SIGTERM)
        client.expect_farewell_alone()
        for _ in range(10):
            client.echo(b"hello")
        client.close()
        assert graced.wait() == 0


def test_handler_that_greets_sends_before_client_does() -> None:
    with (
        Graced(*plugin("GreetingHandler"), "--grace", "30", config=WRITTEN) as graced,
        graced.connect() as client,
    ):
        assert client.recv_exactly(6) == b"hello "
        client.echo(b"and hello to you")
        graced.signal(SIGTERM)
        client.expect_farewell_alone()
        client.echo(b"oh")
        with graced.connect() as late:
            assert late.recv_to_end() == FAREWELL
        client.close()
        assert graced.wait() == 0


def test_handler_has_own_farewell() -> None:
    with (
        Graced(*plugin("PoliteHandler"), "--grace", "30") as graced,
        graced.served() as silent,
        graced.connect() as talking,
    ):
        talking.echo(b"hello")
        graced.signal(SIGTERM)
        for client in (silent, talking):
            client.expect_farewell_alone(b"see you later\n")
            client.close()
        assert graced.wait() == 0


def test_handler_that_says_goodbye_itself() -> None:
    with (
        Graced(*plugin("EloquentHandler"), "--grace", "30") as graced,
        graced.connect() as client,
    ):
        assert client.recv_exactly(5) == b"ready"
        graced.signal(SIGTERM)
        received = client.recv_to_end()
        assert re.fullmatch(rb"goodbye, \d\d", received)
        client.close()
        assert graced.wait() == 0
        assert graced.stopped[1:] == (1, 0)


def test_exception_is_one_record_and_other_clients_are_served() -> None:
    with (
        Graced(*plugin("FailingHandler")) as graced,
        graced.connect() as victim,
        graced.connect() as other,
    ):
        graced.tracebacks = True
        for client in (victim, other):
            client.echo(b"6")
        victim.send(b"7")
        assert victim.recv_to_end() == b""
        head = graced.log.wait_for("^<3>.*seven is not nice")[0]
        assert victim.name in head
        graced.log.wait_for(f"closing connection from {victim.name}: handler failed, 1 byte echoed")
        lines = graced.log.lines
        start = lines.index(head)
        record = [lines[start]]
        for line in lines[start + 1 :]:
            if not line.startswith("<3>    "):
                break
            record.append(line)
        assert record[1] == "<3>    Traceback (most recent call last):"
        assert record[-1] == "<3>    ValueError: seven is not nice"
        assert any("support/handlers.py" in line for line in record)
        assert graced.log.count("Traceback") == 1
        other.echo(b"8")
        with graced.connect() as another:
            another.echo(b"9")


def test_handlers_that_never_return_do_not_hold_up_end() -> None:
    with Graced(*plugin("StubbornHandler"), "--grace", "1") as graced, ExitStack() as stack:
        clients = [stack.enter_context(graced.connect()) for _ in range(10)]
        for client in clients:
            client.echo(b"hello")
        graced.signal(SIGTERM)
        for client in clients:
            client.expect_end()
        assert graced.wait() == 0
        graced.log.wait_for("^<4>exiting without waiting longer for 10 handlers$")
        assert 1 <= graced.stopped.seconds < 5
        assert graced.stopped[1:] == (0, 10)


def test_client_that_left_stubborn_handler_is_no_reason_to_wait_longer() -> None:
    with Graced(*plugin("StubbornHandler"), "--grace", "1") as graced, graced.connect() as client:
        client.echo(b"hello")
        client.close()
        assert graced.stop() == 0
        assert graced.stopped.seconds < 2


@pytest.mark.parametrize("config", ["", WRITTEN], ids=["undeclared", "declared"])
def test_no_farewell_between_writes_of_handler_that_never_reads(config: str) -> None:
    options = (*plugin("ChattyHandler"), "--grace", "1")
    with Graced(*options, config=config) as graced, graced.connect() as client:
        client.send(b"go")
        data = client.recv_exactly(900)
        graced.signal(SIGTERM)
        data += client.recv_to_end()
        assert graced.wait() == 0
        assert graced.stopped[1:] == (0, 1)
    whole = data[: len(data) // 9 * 9]
    assert whole == b"".join(b"%08d\n" % number for number in range(len(whole) // 9))
    assert (b"%08d\n" % (len(whole) // 9)).startswith(data[len(whole) :])


def test_handler_of_client_that_reads_nothing_ends_at_the_end() -> None:
    """The handler blocks in sendall(2), where no event and no deadline reaches it."""
    with Graced(*plugin("ChattyHandler"), "--grace", "1") as graced, ExitStack() as stack:
        clients = [stack.enter_context(graced.connect()) for _ in range(5)]
        for client in clients:
            client.send(b"go")
            client.recv_exactly(9)
        graced.signal(SIGTERM)
        assert graced.wait() == 0
        assert graced.stopped[1:] == (0, 5)
        assert graced.stopped.seconds < 5


def test_many_clients_each_have_thread() -> None:
    with Graced("--handler", "echo-threaded", "--grace", "30") as graced, ExitStack() as stack:
        clients = [stack.enter_context(graced.connect()) for _ in range(100)]
        for _ in range(3):
            for number, client in enumerate(clients):
                client.send(b"%4d" % number)
            for number, client in enumerate(clients):
                assert client.recv_exactly(4) == b"%4d" % number
        graced.signal(SIGTERM)
        for client in clients:
            client.expect_farewell_alone()
            client.close()
        assert graced.wait() == 0
        assert graced.stopped[1:] == (100, 0)


def test_clients_come_and_go_and_leave_no_thread_behind() -> None:
    with Graced("--handler", "echo-threaded") as graced:
        for _ in range(50):
            with graced.connect() as client:
                client.echo(b"hello")
        graced.log.wait_for("closing connection", 50)
        with graced.connect() as client:
            client.echo(b"hello")
            threads = len(list(Path(f"/proc/{graced.pid}/task").iterdir()))
        # The main thread, the log, the I/O thread, this client's, one that is just ending.
        assert threads <= 5


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("nonsense", "unknown handler 'nonsense', known are echo, echo-threaded"),
        ("no.such.module:Handler", "handler 'no.such.module:Handler' cannot be imported: Mod"),
        ("support.handlers:Missing", "handler 'support.handlers:Missing' cannot be imported: Attr"),
        (
            "support.handlers:HERE",
            "handler 'support.handlers:HERE' is neither a graced.StreamProtocol nor",
        ),
        ("support.faulty:ExitingHandler", "handler 'support.faulty:ExitingHandler' cannot be imp"),
    ],
)
@pytest.mark.parametrize("options", [(), ("--check-config",)], ids=["start", "check"])
def test_handler_that_is_none(name: str, complaint: str, options: tuple[str, ...]) -> None:
    found = run_graced("--config", "/dev/null", "--handler", name, *options)
    assert found.returncode == 78
    assert found.stderr.startswith(f"graced: {complaint}"), found.stderr
    assert found.stderr.count("\n") == 1
    assert not found.stdout


def test_handler_of_entry_point(tmp_path: Path) -> None:
    package = tmp_path / "graced_shouting-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: graced-shouting\nVersion: 1.0\n"
    )
    (package / "entry_points.txt").write_text(
        "[graced.handlers]\nshouting = support.handlers:ShoutingHandler\n"
    )
    before = f"import os\nos.environ['PYTHONPATH'] += {f':{tmp_path}'!r}"
    with Graced("--handler", "shouting", before=before) as graced, graced.connect() as client:
        client.send(b"hello\n")
        assert client.recv_exactly(6) == b"HELLO\n"
    found = run_graced("--config", "/dev/null", "--handler", "whispering", before=before)
    assert found.returncode == 78
    assert "known are echo, echo-threaded, shouting and" in found.stderr


def test_busy_handler_is_told() -> None:
    """Reading and writing without a pause: between two calls there is room all the same."""
    options = ("--handler", "echo-threaded", "--grace", "30")
    with Graced(*options) as graced, graced.connect() as client:
        stop = threading.Event()

        def talk() -> None:
            while not stop.is_set():
                client.send(b"." * 100)
            client.finish()

        talker = threading.Thread(target=talk)
        talker.start()
        try:
            client.recv_exactly(1000)
            graced.signal(SIGTERM)
            heard = b""
            while FAREWELL not in heard:
                heard = heard[-len(FAREWELL) :] + client.recv()
        finally:
            stop.set()
            client.recv_to_end()
            talker.join()
        client.close()
        assert graced.wait() == 0
        assert graced.stopped[1:] == (1, 0)
