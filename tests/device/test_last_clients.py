"""Clients that connect while the service stops, in the sandbox of its unit: each has an answer.

GRACED_FULL=1: as many stops as were promised, see tests/robustness/conftest.py.
"""

import json
import time
from collections import Counter

import pytest

from device.service import FAREWELL, Service, receive
from device.test_stop import Stop
from rigging.errors import PATIENCE
from rigging.streams import LineStream
from robustness.scale import scaled

STOPS = scaled(3, 50)

CONFIGURATION = """
[server]
listen = ["{}"]
[shutdown]
grace_period = 0.5
[log]
level = "warning"
"""

# Three threads that connect until connect(2) says that nobody is there, and how each client ended.
KNOCKERS = """
import collections, errno, json, socket, sys, threading
unix = sys.argv[1].startswith("/")
target = sys.argv[1] if unix else ("127.0.0.1", int(sys.argv[1]))
gone = {errno.ECONNREFUSED, errno.ENOENT, errno.ECONNRESET}
ends = collections.Counter()
def knock(word):
    while True:
        with socket.socket(socket.AF_UNIX if unix else socket.AF_INET) as client:
            try:
                client.connect(target)
            except OSError as error:
                if error.errno not in gone:
                    ends[repr(error)] += 1
                return
            try:
                if word:
                    client.sendall(word)
                else:
                    client.shutdown(socket.SHUT_WR)
                heard = b""
                while data := client.recv(4096):
                    heard += data
                ends[heard.decode()] += 1
            except OSError as error:
                ends[repr(error)] += 1
threads = [threading.Thread(target=knock, args=(word,)) for word in (b"", b"hello", b"hello")]
for thread in threads:
    thread.start()
print("knocking", flush=True)
for thread in threads:
    thread.join()
print(json.dumps(ends))
"""


@pytest.mark.parametrize(
    ("listen", "place"),
    [("127.0.0.1:9999", "9999"), ("unix:/run/graced/echo", "/run/graced/echo")],
    ids=["tcp", "unix"],
)
@pytest.mark.parametrize("deadline", [True, False], ids=["deadline", "departed"])
def test_last_clients_have_answer(graced: Service, listen: str, place: str, deadline: bool) -> None:
    graced.configure(CONFIGURATION.format(listen))
    graced.stop()
    graced.mark()
    ends: Counter[str] = Counter()
    for _ in range(STOPS):
        graced.start()
        (stays,) = graced.connect_path(place) if place[0] == "/" else graced.connect()
        stop = Stop(graced)
        assert receive(stays, len(FAREWELL)) == FAREWELL
        process = graced.device.popen("python3", "-c", KNOCKERS, place)
        with LineStream(process, graced.device.end) as knockers:
            assert knockers.line(time.monotonic() + PATIENCE) == "knocking"
            if not deadline:
                stays.close()
            ends.update(json.loads(knockers.line(time.monotonic() + PATIENCE)))
        stop.done()
    farewell = FAREWELL.decode()
    print(f"{ends.total()} clients in {STOPS} stops")
    assert set(ends) <= {farewell, f"hello{farewell}"}
    assert ends.total() >= STOPS
    assert [r["MESSAGE"] for r in graced.journal() if int(r["PRIORITY"]) <= 4] == []
