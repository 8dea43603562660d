"""What the handlers of other people need of the process around them."""

from __future__ import annotations

from pathlib import Path
from signal import SIGTERM, SIGUSR2

import pytest

from functional.foreign import QUICK
from graced.handlers import restoring
from support import PASS, Daemon, FdStore, Graced, run_graced

HERE = "support.foreign_code"


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("AsyncHandler", "has an async handle(), which nobody would run"),
        ("DatagramHandler", "is a DatagramRequestHandler, and this server has streams"),
        ("ThreadStartingHandler", "starts 1 thread at its import, dead in the daemon"),
        ("LowLevelThreadHandler", "starts 1 thread at its import, dead in the daemon"),
    ],
)
@pytest.mark.parametrize("options", [(), ("--check-config",)], ids=["start", "check"])
def test_handler_that_cannot_work_is_refused(
    name: str, complaint: str, options: tuple[str, ...]
) -> None:
    found = run_graced("--config", "/dev/null", "--handler", f"{HERE}:{name}", *options)
    assert found.returncode == 78
    assert found.stderr.startswith(f"graced: handler '{HERE}:{name}' {complaint}"), found.stderr
    assert found.stderr.count("\n") == 1


@pytest.mark.parametrize("kind", [Graced, Daemon])
def test_print_file_and_exit_function_of_a_handler(
    tmp_path: Path, kind: type[Graced] | type[Daemon]
) -> None:
    options = ("--handler", f"{HERE}:PrintingHandler", "--grace", "30")
    with kind(*options, env={"DIRECTORY": str(tmp_path)}) as graced:
        with graced.connect() as client:
            client.echo(b"hello")
            if kind is Daemon:
                graced.log.wait_for("a line of a handler")
        assert graced.stop(SIGTERM) == 0
        graced.log.wait_for("a line of a handler")
        graced.log.wait_for("at the exit")
    assert (tmp_path / "file").read_text() == "buffered"


def test_exit_function_that_hangs(tmp_path: Path) -> None:
    """It is left behind at the deadline."""
    options = ("--handler", f"{HERE}:PrintingHandler", "--grace", "1")
    env = {"DIRECTORY": str(tmp_path), "HANGS": "yes"}
    with Graced(*options, env=env) as graced:
        with graced.connect() as client:
            client.echo(b"hello")
        assert graced.stop(SIGTERM) == 0


def test_attributes_of_the_server() -> None:
    with Graced("--handler", f"{HERE}:AskingHandler") as graced, graced.connect() as client:
        client.send(b"?")
        assert client.recv() == b"asked"


IGNORE = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)"


@pytest.mark.parametrize("kind", [Graced, Daemon])
@pytest.mark.parametrize("before", ["", IGNORE], ids=["usual", "SIGTERM ignored"])
def test_handler_that_shuts_its_server_down(kind: type[Graced] | type[Daemon], before: str) -> None:
    """The service stops as by SIGTERM, and does not wait for the call."""
    options = ("--handler", f"{HERE}:QuittingHandler", "--grace", "30")
    with kind(*options, before=before) as graced:
        with graced.connect() as idle, graced.connect() as client:
            idle.echo(b"hello")
            client.echo(b"quit")
            assert client.recv_to_end() == idle.recv_to_end() == b""
        assert graced.wait() == 0
        assert graced.stopped.closed == 0
        assert graced.stopped.seconds < QUICK
        assert graced.log.count("the handler has called shutdown.., which stops the service") == 1
        assert graced.log.count("SIGTERM received") == 1
        assert not graced.log.count("has called server_close")


def test_handler_that_shuts_its_server_down_at_the_start() -> None:
    with Graced("--handler", f"{HERE}:SelfEndingHandler") as graced:
        assert graced.wait() == 0
        assert graced.log.count("the handler has called shutdown") == 1


@pytest.mark.parametrize("kind", [Graced, Daemon])
def test_hooks(kind: type[Graced] | type[Daemon]) -> None:
    with kind("--handler", f"{HERE}:HookedHandler") as graced:
        with graced.connect() as client:
            client.send(b"?")
            assert client.recv() == b"ready"
        assert graced.stop(SIGTERM) == 0
        graced.log.wait_for("the end of ready")


@pytest.mark.parametrize("options", [(), ("--daemon",)], ids=["foreground", "daemon"])
def test_hook_that_fails_at_the_start(tmp_path: Path, options: tuple[str, ...]) -> None:
    if options:
        options = (*options, "--pid-file", f"{tmp_path}/pid")
    listen = ("--config", "/dev/null", "--listen", f"unix:{tmp_path}/socket")
    found = run_graced(*listen, "--handler", f"{HERE}:FailingHookHandler", *options)
    assert found.returncode == 1
    assert "the hook startup of the handler has failed: FileNotFound" in found.stderr
    assert list(tmp_path.iterdir()) == []


def test_hook_that_exits_at_the_start(tmp_path: Path) -> None:
    listen = ("--config", "/dev/null", "--listen", f"unix:{tmp_path}/socket")
    found = run_graced(*listen, "--handler", f"{HERE}:ExitingHookHandler")
    assert found.returncode == 1
    assert "the hook startup of the handler has failed: SystemExit: startup has" in found.stderr
    assert list(tmp_path.iterdir()) == []


def test_hook_that_exits_at_the_end() -> None:
    """The functions of `atexit` are called all the same."""
    with Graced("--handler", f"{HERE}:ExitingHookHandler", env={"EXITS": "shutdown"}) as graced:
        graced.tracebacks = True
        with graced.connect() as client:
            client.echo(b"hello")
        assert graced.stop(SIGTERM) == 0
        graced.log.wait_for("the hook shutdown of the handler has failed: SystemExit: shutdown has")
        graced.log.wait_for("at the exit")


def test_hook_that_exits_when_all_are_back() -> None:
    """No client waits for the others then."""
    store = FdStore()
    with store:
        options = ("--handler", f"{HERE}:ExitingHookHandler")
        with Graced(*options, env={**store.environment, "EXITS": "no"}) as first:
            client = first.served()
            client.echo(b"hello")
            first.signal(SIGUSR2)
            assert first.wait() == 79
        env = {**store.environment, "EXITS": "restored"}
        with (
            client,
            Graced(
                *options,
                listen=first.addresses[0],
                env=env,
                before=PASS,
                pass_fds=store.descriptors,
            ) as second,
        ):
            second.tracebacks = True
            client.sock.settimeout(restoring.TIMEOUT / 2)
            client.echo(b"still here")
            client.close()
            assert second.stop(SIGTERM) == 0
            assert second.log.count("the hook restored of the handler has failed: SystemExit") == 1


def test_methods_that_are_no_hooks() -> None:
    with Graced("--handler", f"{HERE}:OtherMethodsHandler") as graced:
        with graced.connect() as client:
            client.echo(b"hello")
        assert graced.stop(SIGTERM) == 0
        assert not graced.log.count("hook")
