"""`serve_until_stopped`: the signals of a program."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from signal import SIGINT, SIGQUIT, SIGTERM
from typing import Any

import pytest

from graced import GracefulTCPServer
from graced.signals import STOP
from support import FAREWELL, PATIENCE, Client, environment
from support.library import LOCALHOST, EchoHandler, TellingServer, connect

PROGRAM = """if True:
    import logging, signal, socketserver, sys
    from graced import GracefulTCPServer

    class Echo(socketserver.BaseRequestHandler):
        def handle(self):
            while data := self.request.recv(4096):
                self.request.sendall(data)

    logging.basicConfig(level="INFO", stream=sys.stdout, format="%(message)s")
    before = [signal.getsignal(number) for number in signal.Signals]
    with GracefulTCPServer(("127.0.0.1", 0), Echo) as server:
        server.farewell = b"SHUTDOWN"
        server.grace_period = float(sys.argv[1])
        print(server.server_address[1], flush=True)
        server.serve_until_stopped()
    assert [signal.getsignal(number) for number in signal.Signals] == before
"""


class Program:
    """A program that uses the library as the documentation shows, in a process of its own."""

    def __init__(self, grace_period: float, before: str = "") -> None:
        """`before`: Python code that the program begins with."""
        self._process = subprocess.Popen(
            [sys.executable, "-c", before + PROGRAM, str(grace_period)],
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Program:
        assert self._process.stdout
        self._port = int(self._process.stdout.readline())
        return self

    def __exit__(self, *_failure: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()

    def served(self) -> Client:
        """A client that has been served once: the program catches signals by then."""
        client = Client.connect(f"127.0.0.1:{self._port}")
        client.echo(b"hello")
        return client

    def signal(self, signum: signal.Signals) -> None:
        self._process.send_signal(signum)

    def read_log(self) -> str:
        """The next line of the log."""
        assert self._process.stdout
        return self._process.stdout.readline()

    def expect_clean_exit(self) -> list[str]:
        """Wait for status 0 without a word on stderr; return the rest of the log."""
        out, err = self._process.communicate(timeout=PATIENCE)
        assert (self._process.returncode, err) == (0, "")
        return out.splitlines()


@pytest.mark.parametrize("signum", STOP)
def test_program_says_goodbye_and_exits_on_signal(signum: signal.Signals) -> None:
    with Program(3600) as program, program.served() as one, program.served() as two:
        program.signal(signum)
        for client in (one, two):
            client.expect_farewell_alone()
            client.echo(b"one moment")
            client.close()
        first, last = program.expect_clean_exit()
        assert first == f"{signum.name} received, closing in 3600 s, 2 clients remaining"
        assert last.endswith(": 2 clients departed, 0 closed at the deadline")


@pytest.mark.parametrize("signum", [signal.SIGHUP, SIGINT, SIGQUIT])
def test_program_ignores_what_its_caller_ignores(signum: signal.Signals) -> None:
    before = f"import signal\nsignal.signal({int(signum)}, signal.SIG_IGN)\n"
    with Program(3600, before) as program, program.served() as client:
        program.signal(signum)
        program.signal(SIGTERM)
        client.expect_farewell_alone()
        assert program.read_log().startswith("SIGTERM received, closing in")
        client.close()
        assert len(program.expect_clean_exit()) == 1


def test_program_closes_remaining_client_at_deadline() -> None:
    with Program(0.3) as program, program.served() as client:
        program.signal(SIGTERM)
        assert client.recv_to_end() == FAREWELL
        assert program.expect_clean_exit()[-1].endswith(
            ": 0 clients departed, 1 closed at the deadline"
        )


@pytest.mark.parametrize("impatient", [SIGINT, SIGQUIT])
def test_second_interrupt_ends_grace_period(impatient: signal.Signals) -> None:
    with Program(3600) as program, program.served() as client:
        program.signal(SIGTERM)
        client.expect_farewell_alone()
        assert "closing in 3600 s" in program.read_log()
        program.signal(SIGTERM)
        assert program.read_log() == "SIGTERM received, already closing\n"
        client.echo(b"still here")
        program.signal(impatient)
        client.expect_end()
        ending, _ = program.expect_clean_exit()
        assert ending == f"{impatient.name} received again, ending the grace period now"


def test_shutdown_ends_serve_until_stopped() -> None:
    with TellingServer(("127.0.0.1", 0), EchoHandler) as server:

        def stop() -> None:
            with connect(server) as client:
                client.echo(b"hello")
            server.shutdown()

        stopping = threading.Thread(target=stop)
        stopping.start()
        server.serve_until_stopped()
        stopping.join()


def test_only_main_thread_may_serve_until_stopped() -> None:
    failures: list[str] = []
    with TellingServer(("127.0.0.1", 0), EchoHandler) as server:

        def serve() -> None:
            try:
                server.serve_until_stopped()
            except ValueError as error:
                failures.append(str(error))

        thread = threading.Thread(target=serve)
        thread.start()
        thread.join()
        assert "main thread" in failures[0]
        # Nothing has been caught, and the server is as before.
        server.shutdown()
        server.serve_forever()


def test_other_signals_keep_their_handlers() -> None:
    """Also SIGURG, with which the daemon wakes its handlers."""
    others = set(signal.Signals) - {*STOP, signal.SIGKILL, signal.SIGSTOP}
    seen: list[dict[signal.Signals, Any]] = []

    class Looking(GracefulTCPServer):
        def service_actions(self) -> None:
            seen.append({number: signal.getsignal(number) for number in others})
            self.shutdown()

    def urgent(_signum: int, _frame: Any) -> None:
        pass

    before = signal.signal(signal.SIGURG, urgent)
    try:
        with Looking(LOCALHOST, EchoHandler) as server:
            server.serve_until_stopped(0.01)
        assert seen[0][signal.SIGURG] is urgent
        assert seen[0] == {number: signal.getsignal(number) for number in others}
    finally:
        signal.signal(signal.SIGURG, before)
