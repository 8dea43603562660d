"""gracectl(1) from its arguments to its exit status."""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from graced import __version__
from graced.app import settings
from graced.ctl import gracectl
from graced.errors import UsageError
from graced.sockets.address import Address
from support.peers import echo, echo_and_farewell, echo_and_hang_up, mute, serving, tcp, twist, unix

ENVIRONMENT = {name: value for name, value in os.environ.items() if "PYTHON" not in name}
ENVIRONMENT["PYTHONPATH"] = str(Path(gracectl.__file__).parents[2])
WRONG_USAGE = 2
SYN_SENT = "02"
COMMAND = [sys.executable, "-m", "graced.ctl.gracectl"]


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
def test_address_is_read(text: str, address: Address) -> None:
    assert gracectl.parse_address(text) == address


@pytest.mark.parametrize(
    "text",
    [
        "tls:localhost:7",
        "",
        ":7",
        "::1",
        "[::1",
        "[::1]7",
        "a:0",
        "a:65536",
        "a:-1",
        "a:b",
        "a:",
        "unix:",
        "unix:a",
    ],
)
def test_malformed_address_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        gracectl.parse_address(text)


@pytest.mark.parametrize(
    ("listen", "address"),
    [
        ("'192.0.2.1:7'", Address("192.0.2.1", 7)),
        ("'*:7000'", Address("localhost", 7000)),
        ("['localhost:0', 'unix:/run/graced/echo', '*:7']", Address("", 0, "/run/graced/echo")),
        ("['tls:*:8', '*:7']", Address("localhost", 7)),
        ("'localhost:0'", gracectl.DEFAULT_ADDRESS),
        ("7", gracectl.DEFAULT_ADDRESS),
    ],
)
def test_default_address_is_the_configured_one(
    listen: str, address: Address, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "graced.toml"
    file.write_text(f"[server]\nlisten = {listen}\n[tls]\ncertificate = '/etc/cert.pem'\n")
    monkeypatch.setattr(settings, "CONFIG_FILE", str(file))
    monkeypatch.setattr(settings, "DROP_INS", str(tmp_path / "conf.d"))
    assert gracectl.configured_address() == address


def test_there_is_no_default_address_where_all_have_tls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "graced.toml"
    file.write_text("[server]\nlisten = 'tls:*:7'\n[tls]\ncertificate = '/etc/cert.pem'\n")
    monkeypatch.setattr(settings, "CONFIG_FILE", str(file))
    monkeypatch.setattr(settings, "DROP_INS", str(tmp_path / "conf.d"))
    with pytest.raises(UsageError, match="ping does not speak TLS"):
        gracectl.configured_address()


def test_ping_without_address_pings_the_configured_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(echo, tcp()) as address:
        (tmp_path / "graced.toml").write_text(f"[server]\nlisten = '{address}'\n")
        monkeypatch.setattr(settings, "CONFIG_FILE", str(tmp_path / "graced.toml"))
        assert gracectl.main(["ping", "-c1"]) == gracectl.ALL_BACK
    assert capsys.readouterr().out.startswith(f"PING {address} ({address}): ")


# A run, in this process.


def test_run_reads_like_ping(capsys: pytest.CaptureFixture[str]) -> None:
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


def test_run_as_json(capsys: pytest.CaptureFixture[str]) -> None:
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


def test_farewell(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(echo_and_farewell, tcp()) as address:
        assert gracectl.main(["ping", address]) == gracectl.GOING_OFFLINE
    out = capsys.readouterr().out
    assert f"farewell from {address}: the server is going offline" in out
    assert "1 sent, 1 received, 0% loss" in out


def test_farewell_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(echo_and_farewell, tcp()) as address:
        assert gracectl.main(["ping", "--json", address]) == gracectl.GOING_OFFLINE
    events = objects(capsys.readouterr().out)
    assert [event["event"] for event in events] == ["roundtrip", "farewell", "summary"]
    assert events[-1]["exit_status"] == gracectl.GOING_OFFLINE


def test_farewell_that_is_configured() -> None:
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
def test_session_that_breaks(
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


def test_server_that_does_not_answer(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(mute, tcp()) as address:
        argv = ["ping", "-c2", "-i0", "-W0.01", address]
        assert gracectl.main(argv) == gracectl.SOME_LOST
    out = capsys.readouterr().out
    assert f"no reply from {address}: seq=2" in out
    assert out.splitlines()[-1].startswith("2 sent, 0 received, 100% loss")


def test_bytes_without_a_ping_are_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    # They have to be there before the first ping is sent.
    def script(sock: socket.socket) -> None:
        sock.sendall(b"220 ready")
        mute(sock)

    with serving(script, tcp()) as address:
        assert gracectl.main(["ping", "-i60", address]) == gracectl.SOME_LOST
    assert "wrong byte" in capsys.readouterr().out


def test_unix_socket(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(echo, unix(tmp_path / "echo")) as address:
        assert gracectl.main(["ping", "-c1", address]) == gracectl.ALL_BACK
    assert f"56 bytes from unix:{tmp_path}/echo: seq=1" in capsys.readouterr().out


@pytest.mark.needs("/proc/net/if_inet6")
def test_ipv6(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(echo, tcp("::1")) as address:
        assert address.startswith("[::1]:")
        assert gracectl.main(["ping", "-c1", address]) == gracectl.ALL_BACK
    assert f"56 bytes from {address}: seq=1" in capsys.readouterr().out


@pytest.mark.needs("/proc/net/if_inet6")
def test_ipv4_address_in_the_clothes_of_ipv6_has_one_notation(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As the server's log has it."""
    with serving(echo, tcp()) as address:
        port = address.rpartition(":")[2]
        wanted = f"[::ffff:127.0.0.1]:{port}"
        assert gracectl.main(["ping", "-c1", wanted]) == gracectl.ALL_BACK
    out = capsys.readouterr().out
    assert out.startswith(f"PING {address} ({address}): ")
    assert f"56 bytes from {address}: seq=1" in out


def test_port_without_a_listener(capsys: pytest.CaptureFixture[str]) -> None:
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
def test_address_that_leads_nowhere(
    address: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gracectl.main(["ping", address]) == gracectl.NO_CONNECTION
    assert capsys.readouterr().err.endswith(f": {reason}\n")


def test_socket_that_is_connected_to_itself_is_no_server(
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
    assert gracectl.main(argv) == WRONG_USAGE
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"gracectl: .+ \(see --help\)\n", err)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        gracectl.main(["--version"])
    assert capsys.readouterr().out == f"gracectl {__version__}\n"


def test_signals_are_as_they_were_after_a_run() -> None:
    before = signal.getsignal(signal.SIGINT)
    with serving(echo, tcp()) as address:
        gracectl.main(["ping", "-c1", address])
    assert signal.getsignal(signal.SIGINT) is before
    assert signal.set_wakeup_fd(-1) == -1
