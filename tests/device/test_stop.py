"""The shutdown contract where it counts: under systemd, in each way to stop a service."""

import threading
import time

import pytest

from device.crowd import Crowd
from device.service import (
    COUNTDOWN,
    FAREWELL,
    SIGNAL,
    STOPPED,
    UNIT,
    Service,
    is_message,
    receive,
    rest,
)

IDLE = 50
BUSY = 10


class Stop(threading.Thread):
    """systemctl stop, which blocks while the test looks after the clients."""

    def __init__(self, graced: Service) -> None:
        super().__init__()
        self._graced = graced
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        """Stop."""
        try:
            self._graced.stop()
        except BaseException as error:  # raised again where the test can see it
            self.error = error

    def done(self) -> None:
        """Wait for it; raises what went wrong."""
        self.join()
        if self.error is not None:
            raise self.error


def assert_stopped(graced: Service, clients: int, signal: str) -> None:
    with graced.watch() as watch:
        state = watch.until(lambda unit: unit["ActiveState"] in ("inactive", "failed"))
    assert (state["ActiveState"], state["Result"]) == ("inactive", "success")
    (first,) = graced.journal(f"MESSAGE_ID={SIGNAL}")
    assert first["GRACED_SIGNAL"] == signal
    assert first["GRACED_CLIENTS_LEFT"] == str(clients)
    (last,) = graced.journal(f"MESSAGE_ID={STOPPED}")
    assert last["GRACED_CLIENTS_GONE"] == str(clients)
    assert last["GRACED_CLIENTS_CLOSED"] == "0"
    assert last == graced.own_records()[-1]
    assert [r["MESSAGE"] for r in graced.journal() if int(r["PRIORITY"]) <= 4] == []


@pytest.mark.every_kernel
def test_stop_tells_all_clients(graced: Service) -> None:
    crowd = Crowd(graced, IDLE, BUSY)
    stop = Stop(graced)
    assert crowd.see_out() == []
    stop.done()
    assert_stopped(graced, IDLE + BUSY, "SIGTERM")


@pytest.mark.parametrize("signal", ["SIGTERM", "SIGHUP", "SIGINT", "SIGQUIT"])
def test_each_signal_tells_all_clients(graced: Service, signal: str) -> None:
    crowd = Crowd(graced, IDLE, BUSY)
    graced.device.systemctl("kill", f"--signal={signal}", UNIT)
    assert crowd.see_out() == []
    assert_stopped(graced, IDLE + BUSY, signal)


def test_sighup_behind_sigterm_changes_nothing(graced: Service) -> None:
    graced.drop_in("[Service]\nSendSIGHUP=yes\n")
    graced.restart()
    graced.mark()
    crowd = Crowd(graced, IDLE, BUSY)
    stop = Stop(graced)
    assert crowd.see_out() == []
    stop.done()
    # Whichever of the two the daemon hears first starts the drain, the other is acknowledged.
    (first,) = graced.journal(f"MESSAGE_ID={SIGNAL}")
    assert_stopped(graced, IDLE + BUSY, first["GRACED_SIGNAL"])
    heard = {r["GRACED_SIGNAL"] for r in graced.own_records() if "GRACED_SIGNAL" in r}
    assert heard == {"SIGTERM", "SIGHUP"}


def test_long_grace_outlasts_stop_timeout(graced: Service) -> None:
    graced.drop_in("[Service]\nTimeoutStopSec=2\nWatchdogSec=2\n")
    graced.configure("[shutdown]\ngrace_period = 14\n")
    graced.restart()
    graced.mark()
    (client,) = graced.connect()
    stop = Stop(graced)
    began = time.monotonic()
    assert receive(client, len(FAREWELL)) == FAREWELL
    with graced.follow() as journal:
        for left in (13, 7, 1):  # before and long after systemd's patience would have ended
            journal.until(
                lambda r, left=left: (  # type: ignore[misc]
                    r.get("MESSAGE_ID") == COUNTDOWN and r["GRACED_SECONDS"] == str(left)
                )
            )
            client.sendall(b"still?")
            assert receive(client, 6) == b"still?"
        assert rest(client) == b""
        took = time.monotonic() - began
        record = journal.until(is_message(STOPPED))
    client.close()
    stop.done()
    assert 13.5 <= took <= 19
    assert record["GRACED_CLIENTS_CLOSED"] == "1"
    state = graced.show("ActiveState", "Result")
    assert state == {"ActiveState": "inactive", "Result": "success"}
