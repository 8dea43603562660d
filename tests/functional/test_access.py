"""Rules for strangers: which hosts are served, how many come in a second, what the others hear."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path
from signal import SIGUSR1, SIGUSR2

import pytest

from support import FAREWELL, PASS, Client, FdStore, Graced, attempts, run_graced

HOME, STRANGER = "127.0.0.1", "127.0.0.2"
DENIED = f"[access]\ndeny = ['{STRANGER}']\n"


def connect(graced: Graced, source: str) -> Client:
    host, _, port = graced.addresses[0].rpartition(":")
    return Client(socket.create_connection((host, int(port)), source_address=(source, 0)))


def test_denied_host_is_told_counted_and_logged(handler: str) -> None:
    with Graced("--handler", handler, config=DENIED) as graced, connect(graced, HOME) as welcome:
        welcome.echo(b"hello")
        for sends_first in (b"", b"hello?" * 100):
            with connect(graced, STRANGER) as stranger:
                stranger.send(sends_first)
                assert stranger.recv_to_end() == FAREWELL
        graced.log.wait_for(
            r"^<4>refused \d clients?, the last from 127.0.0.2:\d+: access.deny has 127.0.0.2$"
        )
        graced.signal(SIGUSR1)
        graced.log.wait_for("serving: 1 client now, 1 so far, 2 refused, ")
        welcome.echo(b"still there")
        assert graced.log.count("connection from 127.0.0.2") == 0


@pytest.mark.parametrize("kind", ["stream", "blocking", "asyncio"])
def test_nothing_is_said_where_no_farewell_is_declared(kind: str) -> None:
    handler = "support.handlers:ShoutingHandler" if kind == "blocking" else "support.kinds:Lines"
    with Graced("--handler", handler, config=DENIED, env={"KIND": kind}) as graced:
        with connect(graced, STRANGER) as stranger:
            assert stranger.recv_to_end() == b""
        graced.log.wait_for("refused 1 client,")


def test_dropped_host_is_reset(handler: str) -> None:
    config = DENIED + "refusal = 'drop'\n[limits]\nmax_clients = 1"
    with Graced("--handler", handler, config=config) as graced, connect(graced, HOME) as welcome:
        welcome.echo(b"hello")
        with connect(graced, STRANGER) as stranger, pytest.raises(ConnectionResetError):
            stranger.recv_to_end()
        # A client above a limit is no stranger.
        with connect(graced, HOME) as late:
            assert late.recv_to_end() == FAREWELL


def test_only_allowed_hosts_are_served_and_the_most_specific_rule_decides() -> None:
    config = "[access]\nallow = ['127.0.0.0/30', '127.0.0.9']\ndeny = '127.0.0.2/31'"
    expected = {1: True, 2: False, 3: False, 4: False, 9: True}
    with Graced(config=config) as graced:
        for number, welcome in expected.items():
            with connect(graced, f"127.0.0.{number}") as client:
                if welcome:
                    client.echo(b"hello")
                else:
                    assert client.recv_to_end() == FAREWELL
        graced.log.wait_for("the last from 127.0.0.4:.*: access.allow has no network of the client")


def test_rules_hold_for_ipv4_over_a_dual_stack_listener() -> None:
    with Graced(listen="*:0", config=DENIED + "allow = '::/0'") as graced:
        port = int(graced.addresses[0].rpartition(":")[2])
        with Client(socket.create_connection(("::1", port))) as client:
            client.echo(b"hello")
        with Client(
            socket.create_connection((HOME, port), source_address=(STRANGER, 0))
        ) as stranger:
            assert stranger.recv_to_end() == FAREWELL


def test_no_rule_holds_for_a_unix_socket(tmp_path: Path) -> None:
    config = "[access]\nallow = '192.0.2.1'\ndeny = ['0.0.0.0/0', '::/0']"
    with Graced(listen=f"unix:{tmp_path}/s", config=config) as graced, graced.connect() as client:
        client.echo(b"hello")


def test_many_strangers_are_few_lines() -> None:
    with Graced(config=DENIED) as graced:
        started = time.monotonic()
        for _ in range(300):
            with connect(graced, STRANGER) as stranger:
                assert stranger.recv_to_end() == FAREWELL
        lines = 1
        while sum(int(m[1]) for m in graced.log.matches(r"refused (\d+) clients?,")) < 300:
            lines += 1
            graced.log.wait_for("refused", lines)
        assert graced.log.count("refused") <= 2 + time.monotonic() - started


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ("allow = ['10.0.0.1/8']", "access.allow must begin where the network begins"),
        ("deny = ['10.0.0.0/33']", "access.deny must have 0 to 32 bits"),
        ("deny = ['nowhere']", "access.deny must be networks such as"),
        ("deny = ['::1', '0::1']", "access.deny must name ::1 once"),
        ("deny = 7", "access.deny must be a network or a list"),
        ("refusal = 'say'", "access.refusal must be one of tell, drop"),
        (
            "allow = ['10.0.0.0/8']\ndeny = ['::ffff:10.0.0.0/104']",
            "access.deny must not name 10.0.0.0/8, which access.allow names",
        ),
    ],
)
def test_check_of_the_configuration_names_file_and_key(
    written: str, reason: str, tmp_path: Path
) -> None:
    file = tmp_path / "graced.toml"
    file.write_text(f"[access]\n{written}\n")
    found = run_graced("--config", str(file), "--check-config")
    assert found.returncode == 78
    assert found.stderr.startswith(f"graced: {file}: {reason}")
    assert found.stderr.count("\n") == 1


def test_new_clients_of_a_host_are_limited() -> None:
    config = "[limits]\nmax_new_per_second_per_host = 2"
    with Graced(config=config) as graced:
        started = time.monotonic()
        served = 0
        while served < 5:
            with connect(graced, HOME) as client:
                client.send(b"hello")
                served += client.recv() == b"hello"
        # Two at once, and then one each half a second.
        assert time.monotonic() - started > 1.2
        with connect(graced, STRANGER) as other:
            other.echo(b"hello")
        graced.log.wait_for(
            r"refused \d+ clients?, the last from .*: max_new_per_second_per_host = 2 reached"
        )


def test_new_clients_of_all_hosts_are_limited(handler: str) -> None:
    with Graced("--handler", handler, config="[limits]\nmax_new_per_second = 1") as graced:
        with connect(graced, HOME) as first:
            first.echo(b"hello")
            for _ in attempts("a client comes within a second of another"):
                with connect(graced, STRANGER) as second:
                    second.send(b"hello")
                    if second.recv() == FAREWELL:
                        break
            first.echo(b"still there")
        graced.log.wait_for("refused 1 client, the last from .*: max_new_per_second = 1 reached")


def test_echo_without_rules_imports_no_module_for_them() -> None:
    code = (
        "import sys; from graced.app import cli, configuration, service;"
        " configuration.load('/dev/null', {});"
        " print([name for name in sys.modules if name.startswith('graced.')"
        " and name.rpartition('.')[2] in {'access', 'networks', 'new_clients'}"
        " or name == 'ipaddress'])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


def test_inherited_client_stays_against_new_rules_and_refusals_are_counted_on(
    store: FdStore,
) -> None:
    def start(config: str, listen: str = "127.0.0.1:0") -> Graced:
        return Graced(
            listen=listen,
            config=config,
            env=store.environment,
            before=PASS,
            pass_fds=store.descriptors,
        )

    with start(DENIED) as first, connect(first, HOME) as client:
        client.echo(b"hello")
        with connect(first, STRANGER) as stranger:
            assert stranger.recv_to_end() == FAREWELL
        first.signal(SIGUSR2)
        assert first.wait() == 79
        limits = "[limits]\nmax_new_per_second = 1"
        with start(f"[access]\ndeny = '{HOME}'\n{limits}", first.addresses[0]) as second:
            client.echo(b"still here")
            with connect(second, HOME) as late:
                assert late.recv_to_end() == FAREWELL
            second.log.wait_for("access.deny has 127.0.0.1")
            second.signal(SIGUSR1)
            second.log.wait_for("serving: 1 client now, 1 so far, 2 refused, ")
            # The inherited client took no token.
            with connect(second, STRANGER) as other:
                other.echo(b"hello")
