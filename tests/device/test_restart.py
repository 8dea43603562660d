"""A restart that no client notices, and a stop that each of them hears.

GRACED_FULL=1: as many restarts as were promised, and the promised round trip.
"""

from __future__ import annotations

import resource
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest

from device.crowd import Crowd, leave
from device.load import Load, numbered
from device.packages import Packages
from device.service import (
    FAREWELL,
    HANDED_OVER,
    INHERITED,
    NOT_INHERITED,
    PORT,
    SIGNAL,
    SOCKET_UNIT,
    STARTED,
    STOPPED,
    UNIT,
    Service,
    clients_now,
    is_message,
    receive,
    rest,
)
from rigging import Machine
from rigging.device import JournalStream
from robustness.scale import FULL, Dice, scaled

RESTARTS = scaled(12, 200)
BUSY = 100
IDLE = 1000
LONGEST_TRIP = 0.5
"""Seconds, on a machine that does nothing else."""
GROWTH = 1.05
"""Of the resident memory, over all restarts."""

STORMS = scaled(4, 60)
LISTENERS = 2
"""127.0.0.1 and ::1"""
MIRRORED = LISTENERS + 1
"""What is in the store all the time: the listeners, and the place for clients."""
SUCCESS = {"ActiveState": "active", "SubState": "running", "Result": "success"}
STOPPED_WELL = {"ActiveState": "inactive", "Result": "success"}
SOCKET_ACTIVATED = "/usr/share/doc/graced/examples/socket-activated.conf"
ECHO_PORT = 7
ECHO_PATH = "/run/graced/echo.sock"

# Blocks, and cannot move on.
PLAIN_HANDLER = """
from socketserver import BaseRequestHandler

class Plain(BaseRequestHandler):
    farewell = b"SHUTDOWN"

    def handle(self):
        while data := self.request.recv(65536):
            self.request.sendall(data)
"""


@pytest.fixture(autouse=True)
def _many_descriptors() -> Iterator[None]:
    """The clients are ours, one descriptor each."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    need = IDLE + BUSY + 512
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, need), max(hard, need)))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def fields(graced: Service, message_id: str, field: str) -> list[int]:
    """A number of each record of a kind, oldest first."""
    return [int(record[field]) for record in graced.journal(f"MESSAGE_ID={message_id}")]


def await_start(graced: Service, journal: JournalStream) -> None:
    """Return when the present process has taken everything over: it says so then."""
    pid = str(graced.pid)
    journal.until(lambda r: r.get("MESSAGE_ID") == STARTED and r["_PID"] == pid)


def settle(graced: Service) -> None:
    """The same, where nobody follows the journal."""
    with graced.follow() as journal:
        await_start(graced, journal)


def end_of(client: socket.socket) -> bytes | str:
    """What a client hears up to its end, or how the connection broke."""
    try:
        return rest(client)
    except OSError as error:
        return str(error)


def leave_when_told(client: socket.socket) -> bytes | str:
    """What a client hears that leaves when it hears something."""
    try:
        heard = client.recv(64)
        if heard:
            client.shutdown(socket.SHUT_WR)
    except OSError as error:
        return str(error)
    end = end_of(client)
    return end if isinstance(end, str) else heard + end


def answers(client: socket.socket) -> bool:
    """Whether an echo is behind it."""
    client.sendall(b"still there?")
    return receive(client, 12) == b"still there?"


def kill(graced: Service, signal: str) -> None:
    """Send the daemon a signal, if there is a daemon."""
    graced.device.systemctl("kill", "--kill-who=main", f"--signal={signal}", UNIT, check=False)


def wait(seconds: float) -> None:
    """Let time pass, so that what comes next comes at a moment that nobody has chosen."""
    select.poll().poll(seconds * 1000)


# Under load


class Footprint:
    """What the service holds: descriptors, memory in kB, and what systemd keeps for it."""

    def __init__(self, graced: Service) -> None:
        settle(graced)
        pid = graced.pid
        self.stored = int(graced.show("NFileDescriptorStore")["NFileDescriptorStore"])
        self.descriptors = len(graced.device.run("ls", f"/proc/{pid}/fd").stdout.split())
        status = graced.device.read(f"/proc/{pid}/status")
        (self.memory,) = [
            int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:")
        ]

    def __repr__(self) -> str:
        return f"{self.descriptors} descriptors, {self.memory} kB, {self.stored} in the store"


@pytest.mark.every_kernel
def test_restarts_under_load_are_noticed_by_nobody(
    graced: Service, record_property: Callable[[str, object], None]
) -> None:
    busy = graced.connect(BUSY)
    idle = graced.connect(IDLE)
    with Load(graced, busy) as first:
        first.rounds(3)
        graced.restart()
        first.rounds(30)
    assert first.wrong == []
    before = Footprint(graced)
    graced.mark()
    began = time.monotonic()
    with Load(graced, busy) as load:
        for _ in range(RESTARTS - 1):
            load.rounds(2)
            graced.restart()
        load.rounds(30)
    took = time.monotonic() - began
    after = Footprint(graced)
    waited = fields(graced, INHERITED, "GRACED_MILLISECONDS")
    figures = {
        "restarts": len(waited),
        "seconds": round(took, 1),
        "trips": load.trips,
        "longest_trip": round(load.longest, 3),
        "visits": load.visits,
        "longest_visit": round(load.longest_visit, 3),
        "longest_gap": max(waited) / 1000,
        "before": before,
        "after": after,
    }
    for name, value in figures.items():
        record_property(name, str(value))
    print(graced.device.name, figures)
    assert load.wrong == []
    assert [client for client in idle if not answers(client)] == []
    handed_over = fields(graced, HANDED_OVER, "GRACED_CLIENTS")
    assert len(handed_over) == len(waited) == RESTARTS - 1
    assert handed_over == fields(graced, INHERITED, "GRACED_CLIENTS")
    assert min(handed_over) >= BUSY + IDLE
    assert f"; inherited {handed_over[-1]} clients in " in graced.show("StatusText")["StatusText"]
    assert (after.descriptors, after.stored) == (before.descriptors, before.stored)
    assert after.stored == MIRRORED
    assert after.memory <= GROWTH * before.memory
    bad = [r["MESSAGE"] for r in graced.journal() if int(r["PRIORITY"]) <= 4]
    assert [text for text in bad if "not logged" not in text] == []
    if FULL:
        assert max(load.longest, load.longest_visit) <= LONGEST_TRIP


# What is unsent


def fill(client: socket.socket) -> int:
    """Send a numbered stream and read nothing until nothing more is taken; returns its length."""
    poll = select.poll()
    poll.register(client, select.POLLOUT)
    sent = 0
    while poll.poll(500):
        sent += client.send(numbered(sent, 65536), socket.MSG_DONTWAIT)
    return sent


def test_a_stream_flows_on(graced: Service) -> None:
    """Both ways at once and as fast as it can, so that bytes are under way at each moment."""
    (client,) = graced.connect()
    ending = threading.Event()
    sent = 0
    piece = 100_000

    def send() -> None:
        nonlocal sent
        while not ending.is_set():
            client.sendall(numbered(sent, piece))
            sent += piece
        client.shutdown(socket.SHUT_WR)

    def restart() -> None:
        try:
            for _ in range(5):
                graced.restart()
        finally:
            ending.set()

    threads = [threading.Thread(target=send), threading.Thread(target=restart)]
    for thread in threads:
        thread.start()
    heard = 0
    wrong = 0
    while data := client.recv(1 << 20):
        wrong += data != numbered(heard, len(data))
        heard += len(data)
    for thread in threads:
        thread.join()
    print(graced.device.name, heard, "bytes")
    assert wrong == 0
    assert heard == sent


def test_a_client_with_everything_full_gets_every_byte(graced: Service) -> None:
    (client,) = graced.connect()
    sent = fill(client)
    assert sent > 2_000_000
    for _ in range(3):
        graced.restart()
    more = 3_000_000

    def send() -> None:
        client.sendall(numbered(sent, more))
        client.shutdown(socket.SHUT_WR)

    sender = threading.Thread(target=send)
    sender.start()
    heard = rest(client)
    sender.join()
    assert len(heard) == sent + more
    assert heard == numbered(0, sent + more)


def test_a_half_closed_client_gets_its_rest_and_its_end(graced: Service) -> None:
    (client,) = graced.connect()
    sent = fill(client)
    client.shutdown(socket.SHUT_WR)
    graced.restart()
    graced.restart()
    heard = rest(client)
    assert len(heard) == sent
    assert heard == numbered(0, sent)


def test_a_client_that_leaves_while_nobody_serves_is_not_kept(graced: Service) -> None:
    """Before anybody serves it again, with and without its echo read: it is gone all the same."""
    stay, *clients = graced.connect(21)
    for client in clients[:10]:
        client.sendall(b"unheard")
    # The stop is what takes longest, and begins the gap.
    graced.device.systemctl("restart", "--no-block", UNIT)
    for client in clients:
        client.close()
    settle_restart(graced)
    assert answers(stay)
    with graced.watch() as watch:
        watch.until(lambda unit: clients_now(unit["StatusText"]) == 1)
    # Nobody keeps a socket that is closed.
    assert Footprint(graced).stored == MIRRORED


def settle_restart(graced: Service, restarts: int = 1) -> None:
    """Return when as many restarts as that since the last ``mark`` are over."""
    with graced.follow() as journal:
        for _ in range(restarts):
            journal.until(is_message(INHERITED))
        journal.until(is_message(STARTED))


def test_counts_survive_restarts(graced: Service) -> None:
    """Clients and bytes so far are counted for the service, not for a process."""
    graced.restart()
    stays, goes = graced.connect(2)
    goes.close()
    for number in range(1, 3):
        assert answers(stays)
        graced.restart()
        settle(graced)
        status = graced.show("StatusText")["StatusText"]
        assert status.startswith("serving: 1 client now, 2 so far, "), status
        assert f", {2 + 12 * number} bytes echoed" in status


# The end after it


def test_carried_clients_hear_the_farewell_once(graced: Service) -> None:
    idle, busy = 50, 10
    crowd = Crowd(graced, idle, busy)
    graced.restart()
    graced.restart()
    settle(graced)
    graced.mark()
    graced.device.systemctl("stop", "--no-block", UNIT)
    assert crowd.see_out() == []
    with graced.watch() as watch:
        state = watch.until(lambda unit: unit["ActiveState"] in ("inactive", "failed"))
    assert state["Result"] == "success"
    assert fields(graced, STOPPED, "GRACED_CLIENTS_GONE") == [idle + busy]
    assert fields(graced, STOPPED, "GRACED_CLIENTS_CLOSED") == [0]


def test_carried_clients_have_the_grace_period(graced: Service) -> None:
    graced.configure("[shutdown]\ngrace_period = 3\n")
    graced.restart()
    (client,) = graced.connect()
    graced.restart()
    graced.device.systemctl("stop", "--no-block", UNIT)
    assert receive(client, len(FAREWELL)) == FAREWELL
    told = time.monotonic()
    assert answers(client)
    assert rest(client) == b""
    assert 2.5 <= time.monotonic() - told <= 4


# At the wrong moment


def await_state(graced: Service, wanted: dict[str, str]) -> None:
    """Return when the unit has no job and is as wanted; raises RigError where it never is."""
    wanted = wanted | {"Job": ""}
    with graced.watch() as watch:
        watch.until(lambda unit: {key: unit[key] for key in wanted} == wanted)


def assert_serves(graced: Service) -> None:
    """A new client is welcome, and the next stop goes as it should."""
    assert graced.echoes()
    (client,) = graced.connect()
    graced.restart()
    assert answers(client)
    graced.device.systemctl("stop", "--no-block", UNIT)
    assert receive(client, len(FAREWELL)) == FAREWELL
    client.shutdown(socket.SHUT_WR)
    assert rest(client) == b""
    await_state(graced, STOPPED_WELL)


def test_a_stop_while_the_clients_are_handed_on(graced: Service) -> None:
    """The service is stopped, and nobody is reset or left without an end.

    systemd sends no second signal to a process that is about to stop, so whether a client hears
    the farewell depends on the moment: before or after the gap it does, in the gap its end of file
    comes from systemd, which throws away what it keeps.
    """
    dice = Dice()
    print(repr(dice))
    outcomes = {}
    for _ in range(STORMS):
        clients = graced.connect(20)
        moment = dice.uniform(0, 0.4)
        graced.device.systemctl("restart", "--no-block", UNIT)
        wait(moment)
        graced.device.systemctl("stop", "--no-block", UNIT)
        heard = {leave_when_told(client) for client in clients}
        outcomes[round(moment, 3)] = heard
        await_state(graced, STOPPED_WELL)
        assert heard <= {b"", FAREWELL}, outcomes
        assert len(heard) == 1, outcomes
        graced.start()
    print(graced.device.name, outcomes)
    assert_serves(graced)


def test_a_restart_during_a_drain(graced: Service) -> None:
    """The drain goes on to its end, then the service starts: whoever was told is not carried."""
    told, gone = graced.connect(2)
    pid = graced.pid
    graced.device.systemctl("stop", "--no-block", UNIT)
    for client in (told, gone):
        assert receive(client, len(FAREWELL)) == FAREWELL
    graced.device.systemctl("restart", "--no-block", UNIT)
    gone.close()
    assert answers(told)
    told.shutdown(socket.SHUT_WR)
    assert rest(told) == b""
    await_state(graced, SUCCESS)
    assert graced.pid != pid
    assert_serves(graced)


def test_a_restart_during_a_drain_that_ends_at_the_deadline(graced: Service) -> None:
    """The same, and the listening sockets have been shut when they are taken up again."""
    graced.configure(
        f'[shutdown]\ngrace_period = 1\n[server]\nlisten = ["localhost:9999", "unix:{ECHO_PATH}"]\n'
    )
    graced.restart()
    (client,) = graced.connect()
    graced.device.systemctl("stop", "--no-block", UNIT)
    assert receive(client, len(FAREWELL)) == FAREWELL
    graced.device.systemctl("restart", "--no-block", UNIT)
    assert rest(client) == b""
    await_state(graced, SUCCESS)
    graced.connect_path(ECHO_PATH)
    assert_serves(graced)


def test_restarts_at_once(graced: Service) -> None:
    """systemd makes one or two of them, as the moment is; nobody notices either."""
    clients = graced.connect(50)
    for _ in range(STORMS):
        pid = graced.pid
        graced.device.systemctl("restart", "--no-block", UNIT)
        graced.device.systemctl("restart", "--no-block", UNIT)
        assert [client for client in clients if not answers(client)] == []
        await_state(graced, SUCCESS)
        assert graced.pid != pid
    assert_serves(graced)


def test_a_restart_while_it_starts(graced: Service) -> None:
    """Whoever has been carried by a process that is not ready yet is carried by the next one."""
    dice = Dice()
    print(repr(dice))
    listen(graced, "localhost:9999", f"unix:{ECHO_PATH}")
    graced.restart()
    clients = [*graced.connect(50), *graced.connect_path(ECHO_PATH, 10)]
    inode = inode_of(graced, ECHO_PATH)
    for _ in range(STORMS):
        for _ in range(3):
            graced.device.systemctl("restart", "--no-block", UNIT)
            wait(dice.uniform(0, 0.3))
        assert [client for client in clients if not answers(client)] == []
        assert inode_of(graced, ECHO_PATH) == inode, "nobody who waits there is lost"
    await_state(graced, SUCCESS)
    assert_serves(graced)


def inode_of(graced: Service, path: str) -> str:
    """Which file it is that has the name."""
    return graced.device.run("stat", "--format=%i", path).stdout


def storm(graced: Service, dice: Random) -> list[str]:
    """Signals in a mixture that nobody has chosen; what they were."""
    signals = [dice.choice(["SIGUSR2", "SIGUSR2", "SIGTERM", "SIGUSR1"]) for _ in range(8)]
    for signal in signals:
        kill(graced, signal)
        wait(dice.choice([0, 0, 0.05, 0.2]))
    return signals


def quiet(clients: list[socket.socket]) -> bool:
    """Whether none of them hears anything for a while."""
    poll = select.poll()
    for client in clients:
        poll.register(client, select.POLLIN)
    return not poll.poll(500)


def test_storms_of_signals(graced: Service) -> None:
    """The first signal that ends a process decides what its end is like.

    After TERM clients are told and the service stays stopped, after USR2 they are carried and it
    starts again.  Who is carried may be told by the next process, if TERM comes first there.  No
    client is reset, and each hears the farewell once or not at all.
    """
    dice = Dice()
    print(repr(dice))
    graced.drop_in("[Service]\nRestartSec=100ms\n")
    graced.configure("[shutdown]\ngrace_period = 1\n")
    graced.restart()
    outcomes = []
    for _ in range(STORMS):
        clients = graced.connect(20)
        signals = storm(graced, dice)
        with graced.watch() as watch:
            watch.until(lambda u: u["SubState"] in ("running", "dead", "failed"))
        told = not quiet(clients)
        if told:
            heard = {leave_when_told(client) for client in clients}
            await_state(graced, STOPPED_WELL)
        else:
            heard = set()
            assert all(answers(client) for client in clients), signals
            await_state(graced, SUCCESS)
            for client in clients:
                client.close()
        outcomes.append((signals, "told" if told else "carried", heard))
        assert heard == ({FAREWELL} if told else set()), outcomes[-1]
        if "SIGUSR2" not in signals:
            assert told == ("SIGTERM" in signals)
        if "SIGTERM" not in signals:
            assert not told
        graced.start()
    print(graced.device.name, *outcomes, sep="\n")
    assert_serves(graced)


# What does not fit


@pytest.mark.parametrize("size", [0, LISTENERS, LISTENERS + 1, 20])
def test_a_store_that_is_small(graced: Service, size: int) -> None:
    """Those that fit are carried, the others are told, and nobody is reset."""
    graced.drop_in(f"[Service]\nFileDescriptorStoreMax={size}\n")
    graced.stop()
    graced.start()
    settle(graced)
    clients = graced.connect(100)
    graced.mark()
    graced.device.systemctl("restart", "--no-block", UNIT)
    with graced.follow() as journal:
        left = int(journal.until(is_message(HANDED_OVER))["GRACED_CLIENTS"])
    carried = {client.fileno(): client for client in clients}
    poll = select.poll()
    for fd in carried:
        poll.register(fd, select.POLLIN)
    while len(carried) > left:
        ready = poll.poll(30_000)
        assert ready
        for fd, _ in ready:
            poll.unregister(fd)
            assert leave_when_told(carried.pop(fd)) == FAREWELL
    assert [client for client in carried.values() if not answers(client)] == []
    await_state(graced, SUCCESS)
    settle(graced)
    print(graced.device.name, "room for", size, "carried", left)
    assert fields(graced, INHERITED, "GRACED_CLIENTS") in ([left], [])
    assert left >= 16 if size == 20 else left in (0, len(clients))
    assert graced.journal(f"MESSAGE_ID={NOT_INHERITED}") == []
    assert Footprint(graced).stored <= MIRRORED
    assert graced.echoes()


# What is not wanted


@pytest.mark.parametrize("how", ["restart", "kill"])
def test_keep_never_makes_a_restart_a_stop(graced: Service, how: str) -> None:
    """USR2 is then as TERM is: also by hand, where nobody starts it again."""
    graced.configure('[continuity]\nkeep = "never"\n')
    graced.restart()
    settle(graced)
    assert Footprint(graced).stored == 0
    graced.mark()
    crowd = Crowd(graced, 50, 10)
    if how == "restart":
        graced.device.systemctl("restart", "--no-block", UNIT)
    else:
        kill(graced, "SIGUSR2")
    began = time.monotonic()
    assert crowd.see_out() == []
    await_state(graced, SUCCESS if how == "restart" else STOPPED_WELL)
    assert time.monotonic() - began < 5
    assert fields(graced, STOPPED, "GRACED_CLIENTS_GONE") == [60]
    assert graced.journal(f"MESSAGE_ID={HANDED_OVER}") == []
    assert graced.journal(f"MESSAGE_ID={INHERITED}") == []
    (first,) = graced.journal(f"MESSAGE_ID={SIGNAL}")
    assert first["GRACED_SIGNAL"] == "SIGUSR2"
    if how == "restart":
        assert graced.echoes()


def test_keep_never_from_now_on(graced: Service) -> None:
    """The process that is asked decides with the configuration that it has read itself."""
    clients = graced.connect(10)
    graced.configure('[continuity]\nkeep = "never"\n')
    graced.restart()
    assert [client for client in clients if not answers(client)] == []
    graced.device.systemctl("restart", "--no-block", UNIT)
    for client in clients:
        assert receive(client, len(FAREWELL)) == FAREWELL
        client.shutdown(socket.SHUT_WR)
        assert rest(client) == b""
    await_state(graced, SUCCESS)


# Other addresses


def listen(graced: Service, *addresses: str) -> None:
    quoted = ", ".join(f'"{address}"' for address in addresses)
    graced.configure(f"[server]\nlisten = [{quoted}]\n")


def test_unix_clients_are_carried(graced: Service) -> None:
    listen(graced, "localhost:9999", f"unix:{ECHO_PATH}")
    graced.restart()
    clients = [*graced.connect_path(ECHO_PATH, 10), *graced.connect(10)]
    for _ in range(3):
        graced.restart()
        assert [client for client in clients if not answers(client)] == []
        clients += graced.connect_path(ECHO_PATH, 2)
    settle(graced)
    assert Footprint(graced).stored == MIRRORED + 1
    graced.device.systemctl("stop", "--no-block", UNIT)
    for client in clients:
        assert receive(client, len(FAREWELL)) == FAREWELL
        client.close()
    await_state(graced, STOPPED_WELL)
    assert not graced.device.exists(ECHO_PATH)


def test_nobody_is_refused_by_a_unix_listener(graced: Service) -> None:
    """A connection to a path is never tried again by the kernel: somebody has to be there."""
    listen(graced, "localhost:9999", f"unix:{ECHO_PATH}")
    graced.restart()
    ending = threading.Event()
    wrong: list[str] = []
    visits = [0]

    def visit() -> None:
        while not ending.wait(0.002):
            try:
                with graced.device.connect_unix(ECHO_PATH) as client:
                    if not answers(client):
                        wrong.append("no answer")
            except OSError as error:
                wrong.append(str(error))
            visits[0] += 1

    visitor = threading.Thread(target=visit)
    visitor.start()
    for _ in range(5):
        graced.restart()
    ending.set()
    visitor.join()
    print(graced.device.name, "visits", visits[0])
    assert wrong == []


def test_clients_of_an_address_that_is_no_more_go_on(graced: Service) -> None:
    listen(graced, "localhost:9999", f"unix:{ECHO_PATH}")
    graced.restart()
    clients = [*graced.connect_path(ECHO_PATH, 5), *graced.connect(5)]
    listen(graced, "localhost:9998")
    graced.restart()
    settle(graced)
    assert [client for client in clients if not answers(client)] == []
    clients += graced.connect(5, port=9998)
    with pytest.raises(ConnectionRefusedError):
        graced.connect(1)
    assert not graced.device.exists(ECHO_PATH)
    assert Footprint(graced).stored == MIRRORED
    listen(graced, "localhost:9999", f"unix:{ECHO_PATH}")
    graced.restart()
    clients += [*graced.connect_path(ECHO_PATH, 5), *graced.connect(5)]
    assert [client for client in clients if not answers(client)] == []
    graced.device.systemctl("stop", "--no-block", UNIT)
    for client in clients:
        assert receive(client, len(FAREWELL)) == FAREWELL


@pytest.mark.parametrize(
    ("before", "after"),
    [("localhost:9999", "*:9999"), ("*:9999", "localhost:9999"), ("127.0.0.1:9999", "[::1]:9999")],
)
def test_clients_go_on_when_the_addresses_overlap(graced: Service, before: str, after: str) -> None:
    """The kernel does not let *:9999 be bound as long as somebody listens on localhost:9999."""
    listen(graced, before)
    graced.restart()
    clients = graced.connect(5)
    listen(graced, after)
    graced.restart()
    assert [client for client in clients if not answers(client)] == []
    with graced.device.connect(PORT, "::1") as client:
        assert answers(client)
    settle(graced)
    assert Footprint(graced).stored == (1 if "[" in after else LISTENERS) + 1


def test_a_socket_of_systemd(graced: Service) -> None:
    """Port 7 as the example has it: the clients are carried, the socket stays where it is."""
    device = graced.device
    device.run(
        "install", "-D", "--mode=644", SOCKET_ACTIVATED, "-t", f"/etc/systemd/system/{UNIT}.d"
    )
    device.systemctl("enable", SOCKET_UNIT)
    device.systemctl("restart", UNIT)
    clients = graced.connect(20, port=ECHO_PORT)
    with Load(graced, graced.connect(20, port=ECHO_PORT), ECHO_PORT) as load:
        for _ in range(scaled(3, 20)):
            load.rounds(2)
            graced.restart()
        load.rounds(2)
    assert load.wrong == []
    assert [client for client in clients if not answers(client)] == []
    assert Footprint(graced).stored == 1


def test_a_new_systemd(graced: Service) -> None:
    """Upgraded itself before, between and after restarts of ours."""
    clients = graced.connect(50)
    for _ in range(2):
        graced.device.systemctl("daemon-reexec")
        graced.restart()
        assert [client for client in clients if not answers(client)] == []
    settle(graced)
    assert Footprint(graced).stored == MIRRORED


@pytest.mark.parametrize(
    "config",
    ["[server]\nlisten = 7\n", "[limits]\nmax_clients = 10000\n"],
    ids=["seen before", "not to be known before"],
)
def test_a_configuration_that_it_cannot_start_with(graced: Service, config: str) -> None:
    """Nobody can be carried by a start that is refused: they are told by the one or the other."""
    clients = graced.connect(10)
    graced.configure(config)
    graced.device.systemctl("restart", "--no-block", UNIT)
    assert {leave_when_told(client) for client in clients} == {FAREWELL}
    await_state(graced, {"ActiveState": "failed", "ExecMainStatus": "78"})


def test_who_is_told_to_stop_and_started_again_has_listeners(graced: Service) -> None:
    """Those of a stop are shut in the end, and must not come back from the store."""
    listen(graced, "localhost:9999", f"unix:{ECHO_PATH}")
    # As Debian's kernels have it: anybody may attach a filter to a socket.
    graced.drop_in(
        "[Service]\nRestart=always\nRestartSec=100ms\n"
        "PrivateUsers=no\nCapabilityBoundingSet=CAP_NET_ADMIN\nAmbientCapabilities=CAP_NET_ADMIN\n"
    )
    graced.restart()
    settle(graced)
    graced.mark()
    (client,) = graced.connect(1)
    with graced.follow() as journal:
        kill(graced, "SIGTERM")
        assert leave_when_told(client) == FAREWELL
        journal.until(is_message(STOPPED))
        journal.until(is_message(STARTED))
    clients = [*graced.connect_path(ECHO_PATH, 5), *graced.connect(5)]
    assert [client for client in clients if not answers(client)] == []


# Handlers that block


# Handlers that block


def test_handlers_that_can_move_are_not_noticed_either(graced: Service) -> None:
    graced.configure('[server]\nhandler = "echo-threaded"\n')
    graced.restart()
    busy = graced.connect(20)
    silent = graced.knock(20)
    with Load(graced, busy) as load:
        for _ in range(scaled(5, 50)):
            load.rounds(2)
            graced.restart()
        load.rounds(2)
    assert load.wrong == []
    print(graced.device.name, "longest", load.longest, load.longest_visit)
    assert [client for client in silent if not answers(client)] == []


def test_clients_of_handlers_that_cannot_move_are_told(graced: Service) -> None:
    graced.device.write("/usr/lib/python3/dist-packages/plain_handler.py", PLAIN_HANDLER)
    graced.configure('[server]\nhandler = "plain_handler:Plain"\n[shutdown]\ngrace_period = 2\n')
    graced.restart()
    leaves, stays = graced.connect(2)
    silent = graced.knock(10)
    with graced.watch() as watch:
        watch.until(lambda unit: clients_now(unit["StatusText"]) == 12)
    pid = graced.pid
    graced.mark()
    graced.device.systemctl("restart", "--no-block", UNIT)
    for client in (leaves, stays):
        assert receive(client, len(FAREWELL)) == FAREWELL
    told = time.monotonic()
    client = leaves
    client.sendall(b"one more")
    assert leave(client) is None
    assert answers(stays)
    assert rest(stays) == b""
    assert 1.5 <= time.monotonic() - told <= 3
    assert [client for client in silent if not answers(client)] == []
    assert graced.pid != pid
    settle(graced)
    assert fields(graced, INHERITED, "GRACED_CLIENTS") == [10]
    assert fields(graced, STOPPED, "GRACED_CLIENTS_GONE") == [1]
    assert fields(graced, STOPPED, "GRACED_CLIENTS_CLOSED") == [1]


def test_a_restart_goes_on_when_the_last_handler_has_ended(graced: Service) -> None:
    graced.device.write("/usr/lib/python3/dist-packages/plain_handler.py", PLAIN_HANDLER)
    graced.configure('[server]\nhandler = "plain_handler:Plain"\n[shutdown]\ngrace_period = 60\n')
    graced.restart()
    (client,) = graced.connect()
    (silent,) = graced.knock()
    graced.device.systemctl("restart", "--no-block", UNIT)
    assert receive(client, len(FAREWELL)) == FAREWELL
    client.sendall(b"one more")
    assert leave(client) is None
    began = time.monotonic()
    assert answers(silent)
    assert time.monotonic() - began < 5


def test_a_stop_while_handlers_hold_a_restart_up(graced: Service) -> None:
    """Whoever has been left to the next start, which is not to be, hears its end."""
    graced.device.write("/usr/lib/python3/dist-packages/plain_handler.py", PLAIN_HANDLER)
    graced.configure('[server]\nhandler = "plain_handler:Plain"\n[shutdown]\ngrace_period = 2\n')
    graced.restart()
    (client,) = graced.connect()
    silent = graced.knock(10)
    with graced.watch() as watch:
        watch.until(lambda unit: clients_now(unit["StatusText"]) == 11)
    graced.device.systemctl("restart", "--no-block", UNIT)
    assert receive(client, len(FAREWELL)) == FAREWELL
    graced.device.systemctl("stop", "--no-block", UNIT)
    assert rest(client) == b""
    assert {end_of(client) for client in silent} <= {b"", FAREWELL}
    await_state(graced, STOPPED_WELL)


# apt


def installed(machine: Machine) -> str:
    return machine.run("dpkg-query", "--show", "--showformat=${Version}", "graced").stdout


def test_an_upgrade_and_back_is_noticed_by_nobody(
    machine: Machine, debs: Packages, tmp_path: Path
) -> None:
    machine.install(*debs)
    ours = installed(machine)
    following = debs.rebuilt(tmp_path / "next", "9.9.9")
    graced = Service(machine)
    idle = graced.connect(200)
    with Load(graced, graced.connect(20)) as load:
        for packages, version in ((following, "9.9.9"), (debs, ours)):
            load.rounds(2)
            pid = graced.pid
            machine.install(*packages)
            assert installed(machine) == version
            assert graced.pid != pid
        load.rounds(2)
    print(machine.name, "longest", load.longest, load.longest_visit, "trips", load.trips)
    assert load.wrong == []
    assert [client for client in idle if not answers(client)] == []
    assert graced.show(*SUCCESS, "NRestarts") == SUCCESS | {"NRestarts": "0"}
    assert len(fields(graced, INHERITED, "GRACED_CLIENTS")) == 2
    graced.restore()
