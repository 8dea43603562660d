"""gracectl(1) from its arguments to its exit status."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from graced import __version__
from graced.ctl import gracectl
from graced.ctl.session import FAREWELL
from graced.sockets.address import Address

ENVIRONMENT = {name: value for name, value in os.environ.items() if "PYTHON" not in name}
ENVIRONMENT["PYTHONPATH"] = str(Path(gracectl.__file__).parents[2])
WRONG_USAGE = 2
SYN_SENT = "02"
COMMAND = [sys.executable, "-m", "graced.ctl.gracectl"]


def echo(sock: socket.socket) -> None:
    while data := sock.recv(4096):
        sock.sendall(data)


def echo_and_farewell(sock: socket.socket) -> None:
    sock.sendall(sock.recv(56, socket.MSG_WAITALL) + FAREWELL)
    assert sock.recv(1) == b"", "the client hangs up and says no more"


def echo_and_hang_up(sock: socket.socket) -> None:
    sock.sendall(sock.recv(56, socket.MSG_WAITALL))


def twist(sock: socket.socket) -> None:
    sock.sendall(sock.recv(56, socket.MSG_WAITALL).replace(b".", b","))


def mute(sock: socket.socket) -> None:
    while sock.recv(4096):
        pass


@contextlib.contextmanager
def serving(script: Callable[[socket.socket], None], listener: socket.socket) -> Iterator[str]:
    """The address of a server that runs `script` with its one client, and what it raised."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            with listener.accept()[0] as client:
                script(client)
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    with listener:
        name = listener.getsockname()
        thread.start()
        try:
            yield f"unix:{name}" if isinstance(name, str) else str(Address(*name[:2]))
        finally:
            # Only after a failed test nobody has come yet.
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            thread.join()
    for error in raised:
        raise error


def tcp(host: str = "127.0.0.1") -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, 0), family=family)


def unix(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    return listener


def objects(lines: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines.splitlines()]


# The address.


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("localhost", Address("localhost", 9999)),
        ("localhost:7", Address("localhost", 7)),
        ("192.0.2.1:65535", Address("192.0.2.1", 65535)),
        ("[::1]", Address("::1", 9999)),
        ("[fe80::1%eth0]:7", Address("fe80::1%eth0", 7)),
        ("unix:/run/graced/echo:7", Address("", 0, "/run/graced/echo:7")),
    ],
)
def test_an_address_is_read(text: str, address: Address) -> None:
    assert gracectl.parse_address(text) == address


@pytest.mark.parametrize(
    "text",
    ["", ":7", "::1", "[::1", "[::1]7", "a:0", "a:65536", "a:-1", "a:b", "a:", "unix:", "unix:a"],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        gracectl.parse_address(text)


# A run, in this process.


def test_a_run_reads_like_ping(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(echo, tcp()) as address:
        assert gracectl.main(["ping", "-c", "2", "-i", "0", address]) == gracectl.ALL_BACK
    out, err = capsys.readouterr()
    head, first, second, blank, title, totals, figures = out.splitlines()
    assert head == f"PING {address} ({address}): 56 bytes of data"
    assert first.startswith(f"56 bytes from {address}: seq=1 time=")
    assert second.startswith(f"56 bytes from {address}: seq=2 time=")
    assert second.endswith(" ms")
    assert blank == ""
    assert title == f"--- {address} ping statistics ---"
    assert totals.startswith("2 sent, 2 received, 0% loss, time ")
    assert figures.startswith("rtt min/avg/max/mdev = ")
    assert err == ""


def test_a_run_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(echo, tcp()) as address:
        argv = ["ping", address, "--count=2", "--interval=0", "--size=16", "--json"]
        assert gracectl.main(argv) == gracectl.ALL_BACK
    first, second, summary = objects(capsys.readouterr().out)
    time_ms = first.pop("time_ms")
    assert first == {"event": "roundtrip", "seq": 1, "size": 16, "late": False}
    assert time_ms > 0
    assert second["seq"] == first["seq"] + 1
    rtt_ms = summary.pop("rtt_ms")
    assert summary.pop("time_ms") >= rtt_ms["max"] >= rtt_ms["avg"] >= rtt_ms["min"] > 0
    assert rtt_ms["mdev"] >= 0
    assert summary == {
        "event": "summary",
        "address": address,
        "peer": address,
        "sent": 2,
        "received": 2,
        "lost": 0,
        "loss_percent": 0.0,
        "exit_status": 0,
    }


def test_a_farewell(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(echo_and_farewell, tcp()) as address:
        assert gracectl.main(["ping", address]) == gracectl.GOING_OFFLINE
    out = capsys.readouterr().out
    assert f"farewell from {address}: the server is going offline" in out
    assert "1 sent, 1 received, 0% loss" in out


def test_a_farewell_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(echo_and_farewell, tcp()) as address:
        assert gracectl.main(["ping", "--json", address]) == gracectl.GOING_OFFLINE
    events = objects(capsys.readouterr().out)
    assert [event["event"] for event in events] == ["roundtrip", "farewell", "summary"]
    assert events[-1]["exit_status"] == gracectl.GOING_OFFLINE


def test_a_farewell_that_is_configured() -> None:
    def script(sock: socket.socket) -> None:
        sock.sendall(sock.recv(56, socket.MSG_WAITALL) + "1 Gruß\n".encode())

    with serving(script, tcp()) as address:
        argv = ["ping", "--farewell", "1 Gruß\n", address]
        assert gracectl.main(argv) == gracectl.GOING_OFFLINE


@pytest.mark.parametrize(
    ("script", "line", "totals"),
    [
        (echo_and_hang_up, "lost: closed without a farewell", "1 sent, 1 received, 0% loss"),
        (twist, "seq=1 expected=0x2e got=0x2c", "1 sent, 0 received, 100% loss"),
    ],
)
def test_a_session_that_breaks(
    script: Callable[[socket.socket], None],
    line: str,
    totals: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with serving(script, tcp()) as address:
        assert gracectl.main(["ping", address]) == gracectl.SOME_LOST
    out = capsys.readouterr().out
    assert line in out
    assert totals in out


def test_a_server_that_does_not_answer(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(mute, tcp()) as address:
        argv = ["ping", "-c2", "-i0", "-W0.01", address]
        assert gracectl.main(argv) == gracectl.SOME_LOST
    out = capsys.readouterr().out
    assert f"no reply from {address}: seq=2" in out
    assert out.splitlines()[-1].startswith("2 sent, 0 received, 100% loss")


def test_bytes_nobody_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    # They have to be there before the first ping is sent.
    def script(sock: socket.socket) -> None:
        sock.sendall(b"220 ready")
        echo(sock)

    with serving(script, tcp()) as address:
        assert gracectl.main(["ping", "-i60", address]) == gracectl.SOME_LOST
    assert "wrong byte" in capsys.readouterr().out


def test_a_unix_socket(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(echo, unix(tmp_path / "echo")) as address:
        assert gracectl.main(["ping", "-c1", address]) == gracectl.ALL_BACK
    assert f"56 bytes from unix:{tmp_path}/echo: seq=1" in capsys.readouterr().out


@pytest.mark.needs("/proc/net/if_inet6")
def test_ipv6(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(echo, tcp("::1")) as address:
        assert address.startswith("[::1]:")
        assert gracectl.main(["ping", "-c1", address]) == gracectl.ALL_BACK
    assert f"56 bytes from {address}: seq=1" in capsys.readouterr().out


def test_a_port_where_nobody_listens(capsys: pytest.CaptureFixture[str]) -> None:
    with tcp() as listener:
        address = str(Address(*listener.getsockname()))
    assert gracectl.main(["ping", address]) == gracectl.NO_CONNECTION
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"gracectl: cannot connect to {address}: Connection refused\n"


@pytest.mark.parametrize(
    ("address", "reason"),
    [("unix:/nonexistent/echo", "No such file or directory"), ("a..b", "not a host name")],
)
def test_an_address_that_leads_nowhere(
    address: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gracectl.main(["ping", address]) == gracectl.NO_CONNECTION
    assert capsys.readouterr().err.endswith(f": {reason}\n")


def test_a_socket_that_is_connected_to_itself_is_no_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # What the kernel does by chance when the port that it picks is the one that is asked for.
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.connect(sock.getsockname())
        monkeypatch.setattr(socket, "create_connection", lambda *_: sock)
        with pytest.raises(ConnectionRefusedError, match="refused"):
            gracectl.connect(Address("127.0.0.1", 1), 1.0)
        assert sock.fileno() == -1


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["pong"],
        ["ping", "a", "b"],
        ["ping", "-c0"],
        ["ping", "-c1.5"],
        ["ping", "-s15"],
        ["ping", "-s1048577"],
        ["ping", "-i-1"],
        ["ping", "-inan"],
        ["ping", "-iinf"],
        ["ping", "-W0"],
        ["ping", "--coun=1"],
        ["ping", "::1"],
        ["--nonsense"],
    ],
)
def test_wrong_usage(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        gracectl.main(argv)
    assert exit_.value.code == WRONG_USAGE
    assert capsys.readouterr().err.startswith("usage: gracectl")


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        gracectl.main(["--version"])
    assert capsys.readouterr().out == f"gracectl {__version__}\n"


def test_signals_are_as_they_were_after_a_run() -> None:
    before = signal.getsignal(signal.SIGINT)
    with serving(echo, tcp()) as address:
        gracectl.main(["ping", "-c1", address])
    assert signal.getsignal(signal.SIGINT) is before
    assert signal.set_wakeup_fd(-1) == -1


# A run, as a process of its own.


@contextlib.contextmanager
def running(*argv: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [*COMMAND, *argv],
        env=ENVIRONMENT,
        text=True,
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def read_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def test_ctrl_c_ends_a_process_with_the_summary() -> None:
    with serving(echo, tcp()) as address, running("ping", "-i60", address) as process:
        assert read_line(process).startswith("PING")
        # Its output is a pipe, and still comes line by line.
        assert " seq=1 " in read_line(process)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    assert "1 sent, 1 received, 0% loss" in out
    assert err == ""
    assert process.returncode == gracectl.ALL_BACK


def test_ctrl_c_does_not_lose_a_ping_of_a_flood() -> None:
    with serving(echo, tcp()) as address, running("ping", "-i0", address) as process:
        read_line(process)
        read_line(process)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    assert ", 0% loss, " in out
    assert err == ""
    assert process.returncode == gracectl.ALL_BACK


def test_ctrl_c_while_no_reply_comes() -> None:
    pinged = threading.Event()

    def script(sock: socket.socket) -> None:
        sock.recv(1)
        pinged.set()
        mute(sock)

    with serving(script, tcp()) as address, running("ping", address) as process:
        pinged.wait()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    assert "1 sent, 0 received, 100% loss" in out
    assert err == ""
    assert process.returncode == gracectl.SOME_LOST


def connecting(port: int) -> bool:
    """Whether some socket of this machine waits for an answer from that port, proc(5)."""
    sockets = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    waiting = [there for _, _, there, state, *_ in sockets if state == SYN_SENT]
    return any(there.endswith(f":{port:04X}") for there in waiting)


def test_ctrl_c_while_connecting_ends_a_process_without_a_traceback() -> None:
    with tcp() as listener, contextlib.ExitStack() as stack:
        # With its queue full the kernel leaves the next client without an answer.
        listener.listen(0)
        name = listener.getsockname()
        stack.enter_context(socket.create_connection(name))
        process = stack.enter_context(running("ping", str(Address(*name))))
        while not connecting(name[1]):
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    assert (out, err) == ("", "")
    assert process.returncode == 128 + signal.SIGINT


def test_a_reader_that_leaves_ends_a_process_quietly() -> None:
    with serving(echo, tcp()) as address, running("ping", "-i0", address) as process:
        read_line(process)
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait() == 128 + signal.SIGPIPE
        assert process.stderr is not None
        assert process.stderr.read() == ""


def test_a_full_disk_is_one_line_on_stderr() -> None:
    with (
        Path("/dev/full").open("w") as full,
        serving(echo, tcp()) as address,
        running("ping", "-c1", address, stdout=full) as process,
    ):
        _, err = process.communicate()
    assert err == "gracectl: cannot write: No space left on device\n"
    assert process.returncode == gracectl.SOME_LOST


@pytest.mark.parametrize(
    ("script", "status"),
    [(echo, 0), (twist, 1), (echo_and_hang_up, 1), (echo_and_farewell, 3)],
)
def test_the_exit_status_of_a_process(script: Callable[[socket.socket], None], status: int) -> None:
    with serving(script, tcp()) as address, running("ping", "-c2", "-i.01", address) as process:
        process.communicate()
    assert process.returncode == status


def test_the_exit_status_of_a_process_that_finds_nobody() -> None:
    with running("ping", "unix:/nonexistent") as process:
        _, err = process.communicate()
    assert process.returncode == gracectl.NO_CONNECTION
    assert err.count("\n") == 1


def test_the_exit_status_of_a_process_that_is_used_wrongly() -> None:
    with running("ping", "::1") as process:
        process.communicate()
    assert process.returncode == WRONG_USAGE
