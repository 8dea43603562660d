"""gracectl at the control socket of a graced that runs."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from signal import SIGTERM
from unittest.mock import ANY

import pytest

from support import PATIENCE, Graced, environment
from support.control import environment_in, gracectl, read_until, started_gracectl


def test_status_for_people_and_programs(tmp_path: Path) -> None:
    with Graced(env=environment_in(tmp_path)) as graced, graced.served() as client:
        client.echo(b"hello")
        done = gracectl("status", directory=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        lines = dict(
            line.split(":", 1) for line in done.stdout.splitlines() if not line.startswith(" ")
        )
        assert f"pid {graced.pid}" in lines["service"]
        assert lines["state"].strip().startswith("serving, since 20")
        assert lines["listeners"].split() == graced.addresses
        assert lines["clients"].strip() == "1 now, 1 so far"
        assert lines["limits"].strip() == "max_clients: 1 of 4096 (0%)"
        assert lines["log"].strip() == "level info, nothing lost"
        assert lines["handover"].strip() == "no client was inherited"
        found = json.loads(gracectl("status", "--json", directory=tmp_path).stdout)
        assert (found["pid"], found["clients"], found["drain"]) == (graced.pid, 1, None)
        graced.signal(SIGTERM)
        client.expect_farewell_alone()
        text = gracectl("status", directory=tmp_path).stdout
        assert "s to go, 0 clients departed" in text
        assert f"waits for {client.name}: farewell_sent, idle" in text
        found = json.loads(gracectl("status", "--json", directory=tmp_path).stdout)
        assert [row["client"] for row in found["drain"]["remaining"]] == [client.name]


def test_clients_are_sorted_and_filtered(tmp_path: Path) -> None:
    with Graced(env=environment_in(tmp_path)) as graced, ExitStack() as stack:
        clients = [stack.enter_context(graced.connect()) for _ in range(3)]
        for number, client in enumerate(clients):
            client.echo(b"x" * 2000**number)
        names = [client.name for client in clients]
        done = gracectl("clients", "--sort", "sent", directory=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        head, *lines = [line.split() for line in done.stdout.splitlines()]
        assert head == ["CLIENT", "PHASE", "AGE", "IDLE", "RECEIVED", "SENT", "UNSENT"]
        assert [line[0] for line in lines] == names[::-1]
        assert [line[-3:] for line in lines] == [
            ["4.0M", "4.0M", "0"],
            ["2.0k", "2.0k", "0"],
            ["1", "1", "0"],
        ]
        done = gracectl("clients", "--json", "--host", "127.0.0.0/8", directory=tmp_path)
        rows = [json.loads(line) for line in done.stdout.splitlines()]
        assert [row["client"] for row in rows] == sorted(names)
        for options in (["--phase", "write_blocked"], ["--idle", "3600"], ["--host", "::1"]):
            done = gracectl("clients", "--json", *options, directory=tmp_path)
            assert (done.returncode, done.stdout) == (0, "")


def test_clients_are_closed(handler: str, address: str, tmp_path: Path) -> None:
    runtime = tmp_path / "run"
    runtime.mkdir()
    with (
        Graced("--handler", handler, listen=address, env=environment_in(runtime)) as graced,
        graced.served() as stays,
        graced.served() as silent,
        graced.served() as client,
    ):
        for each in (stays, client):
            each.echo(b"hello")
        names = [
            json.loads(line)["client"]
            for line in gracectl("clients", "--json", directory=runtime).stdout.splitlines()
        ]
        name = f"{address}#3" if address.startswith("unix:") else client.name
        assert name in names
        done = gracectl("close", name, directory=runtime)
        assert (done.returncode, done.stdout, done.stderr) == (0, "1 client closed\n", "")
        assert client.recv_to_end() == b""
        graced.log.wait_for(
            rf"closing connection from {re.escape(name)}: closed by an operator, 5 "
        )
        graced.log.wait_for(rf"user {os.getuid()} has closed 1 client at the control socket$")
        done = gracectl("close", name, "--json", directory=runtime)
        assert (done.returncode, json.loads(done.stdout)) == (1, {"closed": 0})
        stays.echo(b"still served")
        done = gracectl("close", "--idle", "0", "--json", directory=runtime)
        assert (done.returncode, json.loads(done.stdout)) == (0, {"closed": 2})
        assert (stays.recv_to_end(), silent.recv_to_end()) == (b"", b"")
        graced.log.wait_for("closed by an operator", 3)
        assert graced.stop() == 0
        assert graced.stopped.seconds < 2


def test_stuck_client_is_closed(tmp_path: Path) -> None:
    with Graced(env=environment_in(tmp_path)) as graced, graced.connect() as client:
        client.send_until_full()
        done = gracectl("close", "--phase", "write_blocked", directory=tmp_path)
        assert done.stdout == "1 client closed\n"
        graced.log.wait_for(rf"closing connection from {client.name}: closed by an operator, ")
        found = json.loads(gracectl("status", "--json", directory=tmp_path).stdout)
        assert found["clients"] == 0


def test_drain_waits_for_the_clients(handler: str, tmp_path: Path) -> None:
    with (
        Graced("--handler", handler, env=environment_in(tmp_path)) as graced,
        graced.served() as first,
        graced.served() as second,
        started_gracectl("drain", "--json", directory=tmp_path) as drain,
    ):
        assert drain.stdout
        for client in (first, second):
            client.expect_farewell_alone()
            client.close()
        found = [json.loads(line) for line in drain.stdout]
        assert drain.wait(PATIENCE) == 0
        assert found[0]["clients"] == 2
        assert found[-1] == {
            "clients": 0,
            "departed": 2,
            "closed": 0,
            "secondsLeft": ANY,
            "ended": True,
        }
        assert all(not each["ended"] for each in found[:-1])
        graced.log.wait_for(rf"user {os.getuid()} stops the service at the control socket$")
        graced.log.wait_for("SIGTERM received, closing in 5 s")
        assert graced.wait() == 0


def test_drain_says_that_clients_were_closed(tmp_path: Path) -> None:
    config = "[shutdown]\ngrace_period = 1.5\n"
    with (
        Graced(config=config, env=environment_in(tmp_path)) as graced,
        graced.served() as stays,
    ):
        done = gracectl("drain", directory=tmp_path)
        assert done.returncode == 1
        assert done.stderr == ""
        lines = done.stdout.splitlines()
        assert lines[-1] == "stopped: 0 clients departed, 1 closed at the deadline"
        assert any(each.startswith("draining: 1 client remaining, ") for each in lines)
        stays.expect_farewell_alone()
        assert graced.wait() == 0


def test_drain_is_one_line_on_a_terminal(tmp_path: Path) -> None:
    with (
        Graced(env=environment_in(tmp_path)) as graced,
        graced.served() as first,
        graced.served() as second,
    ):
        master, slave = os.openpty()
        with started_gracectl("drain", directory=tmp_path, stdout=slave) as drain:
            os.close(slave)
            first.expect_farewell_alone()
            first.close()
            shown = read_until(master, b"1 client remaining")
            second.close()
            shown += read_until(master, b"\n")
            os.close(master)
            assert drain.wait(PATIENCE) == 0
        assert b"\r[--------------------] " in shown
        assert b"\r[##########----------] draining: 1 client remaining, " in shown
        assert shown.count(b"\n") == 1
        assert b"\r[####################] stopped: 2 clients departed" in shown
        assert graced.wait() == 0


def test_drain_goes_on_without_the_command(tmp_path: Path) -> None:
    with (
        Graced(env=environment_in(tmp_path)) as graced,
        graced.served() as client,
        started_gracectl("drain", directory=tmp_path) as drain,
    ):
        client.expect_farewell_alone()
        drain.send_signal(signal.SIGINT)
        assert drain.wait(PATIENCE) == 128 + signal.SIGINT
        client.echo(b"still served")
        client.close()
        assert graced.wait() == 0


@pytest.mark.parametrize(
    ("words", "status", "reason"),
    [
        (["clients", "--host", "nowhere"], 2, "wrong value of --host"),
        (["clients", "--phase", "asleep"], 2, "wrong value of --phase"),
        (["clients", "--idle", "nan"], 2, "--idle: 'nan' is not a number of seconds (see --help)"),
        (["close"], 2, "name a client, or choose some by --host, --phase or --idle (see --help)"),
        (["close", "--host", "nowhere"], 2, "wrong value of --host"),
        (["clients", "--sort", "size"], 2, "--sort: invalid choice: 'size'"),
    ],
)
def test_wrong_usage_is_one_line(
    words: list[str], status: int, reason: str, tmp_path: Path
) -> None:
    with Graced(env=environment_in(tmp_path)):
        done = gracectl(*words, directory=tmp_path)
    assert (done.returncode, done.stdout) == (status, "")
    assert reason in done.stderr
    assert done.stderr.startswith("gracectl: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("command", ["status", "clients"])
@pytest.mark.parametrize("leftover", [False, True], ids=["no file", "a file"])
def test_service_that_does_not_run_is_one_line(
    command: str, leftover: bool, tmp_path: Path
) -> None:
    if leftover:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(tmp_path / "control"))
    done = gracectl(command, directory=tmp_path)
    assert (done.returncode, done.stdout) == (69, "")
    assert done.stderr == (
        "gracectl: graced does not run, or has no control socket: nobody answers at"
        f" {tmp_path}/control\n"
    )


def test_reader_that_goes_is_no_error(tmp_path: Path) -> None:
    with Graced(env=environment_in(tmp_path)):
        read, write = os.pipe()
        os.close(read)
        done = subprocess.run(
            [
                *(sys.executable, "-m", "graced.ctl.gracectl", "status"),
                *("--socket", str(tmp_path / "control")),
            ],
            env=environment(),
            stdout=write,
            stderr=subprocess.PIPE,
            timeout=PATIENCE,
            check=False,
        )
        os.close(write)
        assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, b"")
