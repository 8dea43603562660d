"""The journal can be asked: by client, by signal, by severity, and for an explanation."""

import socket

import pytest

from device.service import (
    CLOSED,
    CONNECTED,
    REFUSED,
    SIGNAL,
    STOPPED,
    UNIT,
    Service,
    is_message,
    rest,
)
from graced.log import events

# What systemd itself logs about a unit comes from here.
_SYSTEMD = "init.scope"


def address(client: socket.socket) -> str:
    """How the log names a client."""
    host, port = client.getsockname()[:2]
    return f"{host}:{port}"


def leave(graced: Service, clients: list[socket.socket]) -> None:
    """Close clients and return when the log has all of them."""
    left = {address(client) for client in clients}
    for client in clients:
        client.close()
    with graced.follow() as journal:
        while left:
            record = journal.until(is_message(CLOSED))
            left.discard(record["GRACED_CLIENT"])


@pytest.mark.every_kernel
def test_every_record_is_complete(graced: Service) -> None:
    graced.restart()
    graced.mark()
    (staying, *leaving) = graced.connect(3)
    leave(graced, leaving)
    graced.device.systemctl("kill", "--signal=SIGUSR1", UNIT)
    staying.close()
    graced.stop()
    graced.start()
    records = graced.journal()
    own = [r for r in records if r["_SYSTEMD_UNIT"] != _SYSTEMD]
    assert {r["SYSLOG_IDENTIFIER"] for r in own} == {"graced"}
    assert len(own) > 8
    for record in own:
        assert record["_SYSTEMD_UNIT"] == UNIT
        assert record["PRIORITY"] in "01234567"
        assert len(record["MESSAGE_ID"]) == 32
        assert record["MESSAGE"]
    # Some of what systemd says about a unit has no message id, and that is not ours to change.
    for record in records:
        assert {"PRIORITY", "SYSLOG_IDENTIFIER", "MESSAGE"} <= set(record), record


def test_query_by_client_finds_exactly_its_records(graced: Service) -> None:
    clients = graced.connect(3)
    client = address(clients[1])
    leave(graced, clients)
    records = graced.journal(f"GRACED_CLIENT={client}")
    assert [r["MESSAGE_ID"] for r in records] == [CONNECTED, CLOSED]
    assert records[1]["GRACED_BYTES"] == "1"
    assert float(records[1]["GRACED_SECONDS"]) >= 0
    assert records[1]["GRACED_REASON"]
    everything = [r for r in graced.journal() if client in r["MESSAGE"]]
    assert everything == records


def test_query_by_signal_finds_exactly_its_records(graced: Service) -> None:
    graced.device.systemctl("kill", "--signal=SIGHUP", UNIT)
    with graced.watch() as watch:
        watch.until(lambda unit: unit["ActiveState"] == "inactive")
    graced.start()
    graced.stop()
    (hup,) = graced.journal("GRACED_SIGNAL=SIGHUP")
    (term,) = graced.journal("GRACED_SIGNAL=SIGTERM")
    assert hup["MESSAGE_ID"] == term["MESSAGE_ID"] == SIGNAL
    assert hup["_PID"] != term["_PID"]


def test_warnings_are_found_by_severity(graced: Service) -> None:
    graced.configure("[limits]\nmax_clients = 1\n")
    graced.restart()
    graced.mark()
    graced.connect()
    (refused,) = graced.knock()
    with graced.follow() as journal:
        journal.until(is_message(REFUSED))
    rest(refused)
    (warning,) = graced.journal("--priority=warning")
    assert warning["MESSAGE_ID"] == REFUSED
    assert warning["GRACED_CLIENT"] == address(refused)


def test_catalog_explains(graced: Service) -> None:
    graced.stop()
    for message_id in (SIGNAL, STOPPED):
        records = graced.device.run(
            "journalctl", "--catalog", "--no-pager", f"--unit={UNIT}", f"MESSAGE_ID={message_id}"
        ).stdout
        assert " Subject: " in records
        assert "man:graced(8)" in records
        assert "@" not in records.replace("@GRACED", "")  # every field was filled in


def test_every_kind_of_record_is_in_catalog(graced: Service) -> None:
    kinds = graced.device.python(
        "from graced.log import event, events\n"
        "print(*(each.message_id for each in events.ALL.values()), event.OTHER_MESSAGE_ID)"
    ).split()
    listed = graced.device.run("journalctl", "--list-catalog", *kinds).stdout
    found = {line.split()[0] for line in listed.splitlines()}
    assert found == set(kinds)
    assert len(kinds) > 10


def test_no_byte_of_log_reaches_client(graced: Service) -> None:
    # The descriptors that the fork closes are given to the first clients; whoever still holds
    # one of the numbers for a log would write into their streams.
    graced.configure('[log]\nlevel = "debug"\n')
    graced.restart()
    clients = graced.connect(40)
    for signal in ("SIGUSR1", "SIGTERM"):
        graced.device.systemctl("kill", f"--signal={signal}", UNIT)
    for client in clients:
        assert client.recv(65536) == b"SHUTDOWN"
        client.shutdown(socket.SHUT_WR)
        assert rest(client) == b""


VERBOSE_HANDLER = """
from socketserver import BaseRequestHandler

class Verbose(BaseRequestHandler):
    def handle(self):
        self.request.recv(100)
        raise ValueError("begin" + "x" * 300_000 + "end")
"""


def test_exception_with_long_text_is_record(graced: Service) -> None:
    """Its fields did not fit into a datagram, and the record was lost."""
    graced.device.write("/usr/lib/python3/dist-packages/verbose_handler.py", VERBOSE_HANDLER)
    graced.configure('[server]\nhandler = "verbose_handler:Verbose"\n')
    graced.restart()
    (client,) = graced.knock()
    client.sendall(b"?")
    with graced.follow() as journal:
        record = journal.until(is_message(events.HANDLER_FAILED.message_id))
    client.close()
    assert record["MESSAGE"].endswith("xend")
    assert "[...]" in record["MESSAGE"]
    assert record["GRACED_REASON"].startswith("ValueError: beginxxx")


SMALL_BUFFER = """
import socket
from graced.log import events, sinks
from graced.log.event import Record

sink = sinks.Journal()
sink._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
sink.write(Record(events.LIMITS, {"reason": "begin" + "x" * 40_000 + "end"}))
sink.flush(5.0)
"""


def test_record_that_is_file_is_read_by_journald(graced: Service) -> None:
    """Where net.core.wmem_default is small."""
    after = graced.device.cursor()
    graced.device.python(SMALL_BUFFER)
    with graced.device.follow(after=after) as journal:
        record = journal.until(is_message(events.LIMITS.message_id))
    assert record["MESSAGE"] == "begin" + "x" * 40_000 + "end"


JOURNAL_UNITS = (
    "systemd-journald.socket",
    "systemd-journald-dev-log.socket",
    "systemd-journald-audit.socket",
    "systemd-journald.service",
)


def test_log_goes_on_after_the_journal_was_restarted(graced: Service) -> None:
    (before,) = graced.connect()
    graced.device.systemctl("restart", "systemd-journald.service")
    graced.mark()
    (after,) = graced.connect()
    before.close()
    leave(graced, [after])
    names = [r["GRACED_CLIENT"] for r in graced.journal(f"MESSAGE_ID={CONNECTED}")]
    assert len(names) == 1


def test_clients_are_served_while_the_journal_is_gone(graced: Service) -> None:
    """Stopped with its sockets; a client comes and one goes, and the log has both later."""
    (before,) = graced.connect()
    graced.mark()
    graced.device.systemctl("stop", *JOURNAL_UNITS)
    try:
        (during,) = graced.connect()
        names = [address(before), address(during)]
        before.close()
        during.sendall(b"hello")
        assert during.recv(64) == b"hello"
    finally:
        graced.device.systemctl("start", *JOURNAL_UNITS)
    (after,) = graced.connect()
    with graced.follow() as journal:
        journal.until(lambda r: r.get("GRACED_CLIENT") == address(after))
    after.close()
    found = graced.journal()
    assert [r for r in found if r.get("GRACED_CLIENT") == names[0] and "closing" in r["MESSAGE"]]
    assert [r for r in found if r.get("GRACED_CLIENT") == names[1]]
    during.close()
    graced.restart()
    assert graced.echoes()
