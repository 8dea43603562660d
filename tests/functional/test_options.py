"""Options of handlers: from the files to the handler, in a start, a check and a restart."""

from __future__ import annotations

import os
from pathlib import Path
from signal import SIGUSR2

import pytest

from support import Graced, NotifySocket, run_graced
from support.options import HERE

HANDED_OVER = 79
"""The exit status, graced(8)."""
KINDS = pytest.mark.parametrize("kind", ["Stream", "Blocking"])
CONFIG = '[server]\nhandler = "{handler}"\n[handler]\n{options}\n'


def write(directory: Path, kind: str, options: str) -> Path:
    path = directory / "it.toml"
    path.write_text(
        CONFIG.format(handler=f"{HERE}:{kind}" if ":" not in kind else kind, options=options)
    )
    return path


def config(kind: str, options: str) -> str:
    return CONFIG.format(handler=f"{HERE}:{kind}", options=options)


@KINDS
def test_options_reach_handler_and_hooks(kind: str) -> None:
    with (
        Graced(config=config(kind, "word = 'written'\nnumber = 8")) as graced,
        graced.connect() as client,
    ):
        client.send(b"?")
        assert client.recv_exactly(10) == b"written 8\n"


@KINDS
def test_defaults_reach_handler(kind: str) -> None:
    with Graced("--handler", f"{HERE}:{kind}") as graced, graced.connect() as client:
        client.send(b"?")
        assert client.recv_exactly(10) == b"default 2\n"


@pytest.mark.parametrize("state", ["", "/var/lib/one", "/var/lib/one:/var/lib/two"])
def test_state_directory_of_the_unit_is_known(state: str) -> None:
    env = {"STATE_DIRECTORY": state} if state else {}
    with Graced(config=config("Lenient", "a = 1"), env=env) as graced, graced.connect() as client:
        client.send(b"?")
        expected = f"{{'a': 1}} {'/var/lib/one' if state else None}"
        assert client.recv_to_end() == expected.encode()


@pytest.mark.parametrize("command", [("--check-config",), ()], ids=["check", "start"])
@pytest.mark.parametrize(
    ("kind", "options", "reason"),
    [
        ("Stream", "word = 7", "handler.word must be a string, not 7"),
        ("Blocking", "wrod = 7", "unknown key 'handler.wrod'"),
        ("Stream", "number = 42", "[handler] number must not be the answer"),
        ("Stranger", "word = 1", "unknown key 'handler.word'"),
    ],
)
def test_wrong_option_is_refused(
    command: tuple[str, ...], kind: str, options: str, reason: str, tmp_path: Path
) -> None:
    path = write(tmp_path, kind, options)
    result = run_graced("--config", str(path), *command)
    assert result.returncode == os.EX_CONFIG
    assert result.stderr.startswith(f"graced: {path}: {reason}")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("handler", ["echo", "echo-threaded"])
def test_built_in_echo_has_no_options(handler: str, tmp_path: Path) -> None:
    path = tmp_path / "it.toml"
    path.write_text("[handler]\nword = 1\n")
    result = run_graced("--config", str(path), "--handler", handler, "--check-config")
    assert result.returncode == os.EX_CONFIG
    assert result.stderr == (
        f"graced: {path}: unknown key 'handler.word', the handler {handler} has no options\n"
    )


def test_required_option_is_asked_for(tmp_path: Path) -> None:
    result = run_graced("--handler", f"{HERE}:Needy", "--check-config", "--config", os.devnull)
    assert result.returncode == os.EX_CONFIG
    assert result.stderr == (
        f"graced: the handler {HERE}:Needy needs handler.path in the configuration:"
        " the path of the sensor\n"
    )


def test_options_are_described_without_being_checked(tmp_path: Path) -> None:
    path = write(tmp_path, "Needy", "wrong = 1")
    result = run_graced("--config", str(path), "--describe")
    assert result.returncode == 0
    assert result.stdout.endswith("# the path of the sensor: a string. Required.\n#path =\n")


@pytest.mark.parametrize(
    ("name", "beginning", "restart", "end"),
    [
        ("Counter", "", "stay connected", "#first = 1"),
        ("echo", "", "are told", "It has no options."),
        ("partly", "support.asynchronous:partly is support.asynchronous:Echo", "are told", "."),
    ],
)
def test_asyncio_handler_is_described(name: str, beginning: str, restart: str, end: str) -> None:
    handler = f"support.asynchronous:{name}"
    result = run_graced("--config", os.devnull, "--handler", handler, "--describe")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(
        f"{beginning or handler}, an asyncio handler: runs on a loop in a thread of its own\n"
        f"clients {restart} at a restart; farewell: end of file\n\n"
    )
    assert result.stdout.endswith(f"{end}\n")


@KINDS
@pytest.mark.parametrize(("number", "status"), [(7, 0), (10, HANDED_OVER)])
def test_option_of_next_start_decides_between_stop_and_handover(
    kind: str, number: int, status: int, notify_socket: NotifySocket
) -> None:
    with (
        Graced(config=config(kind, "number = 8"), env=notify_socket.environment) as graced,
        graced.connect() as client,
    ):
        client.send(b"?")
        assert client.recv_exactly(10) == b"default 8\n"
        graced.config_file.write_text(config(kind, f"number = {number}"))
        graced.signal(SIGUSR2)
        assert client.recv_to_end() == b""
        client.close()
        assert graced.wait() == status
        if number % 2:
            graced.log.wait_for(
                "^<4>stopping instead of handing over, because the next start would fail: "
                f".*{graced.config_file}: handler.number must be even, not {number}"
            )
