"""The live screens of gracectl, on a terminal that can be looked at."""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

import pyte
import pytest

from support import PATIENCE, Graced, environment
from support.control import environment_in, gracectl, started_gracectl

LINES, COLUMNS = 24, 80


SIZE = {"LINES": "", "COLUMNS": ""}


class Terminal:
    """A terminal in which gracectl runs, as a context manager."""

    def __init__(self, *words: str, directory: Path, **env: str) -> None:
        command, *options = words
        self._master, slave = os.openpty()
        self.resize(LINES, COLUMNS)
        self.gracectl = subprocess.Popen(
            [
                *(sys.executable, "-m", "graced.ctl.gracectl", command),
                *("--socket", str(directory / "control"), *options),
            ],
            # The size is that of the terminal, whatever the environment of the tests says.
            env=environment({"TERM": "linux", "LC_ALL": "C.UTF-8", **SIZE, **env}),
            stdin=slave,
            stdout=slave,
            stderr=slave,
        )
        os.close(slave)
        self._screen = pyte.Screen(COLUMNS, LINES)
        self._stream = pyte.ByteStream(self._screen)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.gracectl.kill()
        self.gracectl.wait()
        os.close(self._master)

    def resize(self, lines: int, columns: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    @property
    def lines(self) -> list[str]:
        return [line.rstrip() for line in self._screen.display]

    def press(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def _read(self, seconds: float) -> None:
        """Show what is written within that time."""
        if select.select([self._master], [], [], seconds)[0]:
            with suppress(OSError):
                # EIO: the last who had it open has closed it.
                self._stream.feed(os.read(self._master, 65536))

    def show_until(self, seen: Callable[[list[str]], bool]) -> list[str]:
        """Read what is written, until the screen is as wanted; return its lines."""
        until = time.monotonic() + PATIENCE
        while not seen(self.lines):
            left = until - time.monotonic()
            assert left > 0, "\n".join(self.lines)
            self._read(left)
        return self.lines

    def until(self, text: str) -> list[str]:
        return self.show_until(lambda lines: any(text in line for line in lines))

    def until_not(self, text: str) -> list[str]:
        return self.show_until(lambda lines: not any(text in line for line in lines))

    def end(self) -> int:
        """The exit status; what is written meanwhile is read."""
        until = time.monotonic() + PATIENCE
        while self.gracectl.poll() is None and time.monotonic() < until:
            self._read(0.01)
        return self.gracectl.wait(0)


DOWN, LEFT = "\x1b[B", "\x1b[D"
"""As the console of Linux sends them."""


def test_top_shows_rates_and_obeys_its_keys(tmp_path: Path) -> None:
    with (
        Graced("--grace", "30", env=environment_in(tmp_path)) as graced,
        graced.served() as first,
        graced.served() as second,
        Terminal("top", directory=tmp_path) as terminal,
    ):
        lines = terminal.until("q quit")
        assert first.name in lines[6] + lines[7]
        assert lines[0].startswith("graced ")
        assert f"pid {graced.pid}, serving for" in lines[0]
        assert lines[1].startswith("clients 2; max_clients 2 of 4096")
        head = lines[5].split()
        assert head == ["CLIENT", "PHASE", "AGE", "IDLE", "IN/S", "OUT/S", "UNSENT"]
        assert lines[-1].startswith("q quit")
        # A graph of a rate, and the client that has it, first.
        second.echo(b"x" * 100_000)
        terminal.show_until(
            lambda shown: (
                "█" in shown[4]
                and shown[6].startswith(second.name)
                and shown[4].split()[1].removesuffix("B/s") in shown[6].split()
            )
        )
        terminal.press(LEFT + LEFT + LEFT)
        terminal.until("by AGE")
        # Tell the chosen client, after a question.
        terminal.press(DOWN + "t")
        question = terminal.until("? y: yes")[-1]
        chosen, other = first, second
        if f" {second.name}?" in question:
            chosen, other = second, first
        terminal.press("n")
        terminal.until("q quit")
        terminal.press("t")
        terminal.until("? y: yes")
        terminal.press("y")
        terminal.until(f"telling {chosen.name}")
        chosen.expect_farewell_alone()
        terminal.until("farewell_sent")
        terminal.press("c")
        terminal.until(f"close {chosen.name}?")
        terminal.press("y")
        assert chosen.recv_to_end() == b""
        terminal.show_until(lambda shown: not any(line.startswith(chosen.name) for line in shown))
        other.echo(b"still served")
        terminal.press("q")
        assert terminal.end() == 0


def test_screen_follows_the_service_over_its_end(tmp_path: Path) -> None:
    with Terminal("top", directory=tmp_path) as terminal:
        # Said where it stays, and not on a screen.
        terminal.until("does not run, or has no control socket")
        assert terminal.end() == 69
    with ExitStack() as stack:
        with Graced(env=environment_in(tmp_path)) as graced:
            terminal = stack.enter_context(Terminal("top", directory=tmp_path))
            terminal.until(f"pid {graced.pid}")
        terminal.until("does not run")
        with Graced(env=environment_in(tmp_path)) as graced:
            terminal.until(f"pid {graced.pid}")
            terminal.until_not("does not run")
            terminal.press("q")
            assert terminal.end() == 0


def test_clients_are_watched(tmp_path: Path) -> None:
    with (
        Graced(env=environment_in(tmp_path)) as graced,
        Terminal("clients", "--watch", directory=tmp_path) as terminal,
    ):
        lines = terminal.until("q quit")
        assert lines[0].endswith("UNSENT")
        assert "now by CLIENT" in lines[-1]
        with graced.served() as client:
            name = client.name
            terminal.until(name)
        terminal.until_not(name)
        terminal.gracectl.send_signal(signal.SIGINT)
        assert terminal.end() == 128 + signal.SIGINT


def test_screen_of_another_size(tmp_path: Path) -> None:
    with (
        Graced(env=environment_in(tmp_path)) as graced,
        graced.served() as client,
        Terminal("top", directory=tmp_path) as terminal,
    ):
        terminal.until(client.name)
        for lines, columns in ((3, 10), (1, 1), (LINES, COLUMNS)):
            terminal.resize(lines, columns)
            terminal.gracectl.send_signal(signal.SIGWINCH)
        terminal.until(client.name)
        terminal.press("q")
        assert terminal.end() == 0


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_graph_has_characters_of_the_terminal(locale: str, tmp_path: Path) -> None:
    wanted = {"C": "@", "C.UTF-8": "█"}[locale]
    with (
        Graced(env=environment_in(tmp_path)) as graced,
        graced.served() as client,
        Terminal(
            "top", directory=tmp_path, LC_ALL=locale, PYTHONCOERCECLOCALE="0", PYTHONUTF8="0"
        ) as terminal,
    ):
        terminal.until(client.name)
        client.echo(b"x" * 100_000)
        assert wanted in terminal.until(wanted)[4]


@pytest.mark.parametrize("command", ["top", "clients --watch"])
def test_programs_get_lines(command: str, tmp_path: Path) -> None:
    with (
        Graced(env=environment_in(tmp_path)) as graced,
        graced.served() as client,
        started_gracectl(*command.split(), "--json", directory=tmp_path) as looking,
    ):
        assert looking.stdout
        first, second = (json.loads(looking.stdout.readline()) for _ in range(2))
        (row,) = first["clients"]
        assert (row["client"], row["sentRate"]) == (client.name, None)
        (row,) = second["clients"]
        assert row["sentRate"] == 0
        if command == "top":
            assert second["status"]["pid"] == graced.pid
            assert second["rates"] == {"new": 0, "refused": 0, "sent": 0}
        looking.send_signal(signal.SIGINT)
        assert looking.wait(PATIENCE) == 128 + signal.SIGINT


def test_list_is_watched_without_a_terminal(tmp_path: Path) -> None:
    with (
        Graced(env=environment_in(tmp_path)) as graced,
        graced.served() as client,
        started_gracectl("clients", "--watch", directory=tmp_path) as looking,
    ):
        assert looking.stdout
        for _ in range(2):
            assert looking.stdout.readline().startswith("CLIENT ")
            assert looking.stdout.readline().startswith(client.name)
            assert looking.stdout.readline() == "\n"
        looking.send_signal(signal.SIGINT)
        looking.wait(PATIENCE)


@pytest.mark.parametrize("term", ["", "no-such-terminal"])
def test_terminal_that_shows_nothing_is_one_line(term: str, tmp_path: Path) -> None:
    with Graced(env=environment_in(tmp_path)):
        with Terminal("top", directory=tmp_path, TERM=term) as terminal:
            terminal.until("gracectl: the terminal cannot show a live screen: ")
            assert terminal.end() == 2
        done = gracectl("top", directory=tmp_path)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == "gracectl: a live screen needs a terminal; --json does not\n"


def test_stopped_terminal_delays_no_client(tmp_path: Path) -> None:
    """A terminal from which nobody reads, and a gracectl that is stopped in the middle."""
    with (
        Graced(env=environment_in(tmp_path)) as graced,
        graced.served() as client,
        Terminal("top", directory=tmp_path) as terminal,
    ):
        terminal.until(client.name)
        terminal.gracectl.send_signal(signal.SIGSTOP)
        for _ in range(100):
            client.echo(b"still served")
        client.close()
        assert graced.stop() == 0
        assert graced.stopped.seconds < 4
