"""The log of the program: records are queued, and one thread writes them to a sink.

No thread that serves clients waits for the log.  A terminal that was stopped with Ctrl-S, a full
pipe or a hung journald costs an echo nothing: where the queue is full, records are dropped and
counted, and the number is logged as soon as there is room.

The queue is not `logging.handlers.QueueHandler`, because that costs the thread that logs 5.7 us a
record, and this queue 0.6 us (Python 3.11, median of 60 rounds in turns).
"""

from __future__ import annotations

import threading
import time
from queue import Empty, SimpleQueue

from graced.log import event, events
from graced.log.event import LEVELS, WARNING, Level, Record
from graced.threads import start_thread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.log.sinks import Sink

FLUSH_TIMEOUT = 0.1
"""Seconds that the end of the program waits for the sink to take in the last record."""
LOSS_REPORT_INTERVAL = 1.0
"""Seconds between two records about dropped or suppressed records, at least."""
LOG_STOP_TIMEOUT = 0.25
"""Seconds that the end of the program waits for a sink that takes no record."""
LOG_LAST_TIMEOUT = 2.0
"""Seconds that the end of the program waits for the thread that writes the log, which a busy
processor may keep from writing."""
QUEUE_CAPACITY = 4096
"""Records."""
RESERVED = 1024
"""Further records, for warnings and errors only, which no flood of other records pushes out."""


class TokenBucket:
    """A limit on the rate of records about clients.

    journald drops all records of a unit that logs more than 10,000 records in 30 s, important
    records too (RateLimitIntervalSec= and RateLimitBurst= in journald.conf(5)).  Clients that
    connect and leave as fast as possible must not cause that.
    """

    def __init__(self, burst: float = 2000.0, rate: float = 200.0) -> None:
        """`burst`: the most tokens, all of them there at first; `rate`: new tokens a second."""
        self._burst = self._tokens = burst
        self._rate = rate
        self._filled_at = time.monotonic()

    def take(self) -> bool:
        """Take a token; return False where there is none."""
        if self._tokens < 1.0:
            now = time.monotonic()
            self._tokens = min(self._burst, self._tokens + (now - self._filled_at) * self._rate)
            self._filled_at = now
            if self._tokens < 1.0:
                return False
        self._tokens -= 1.0
        return True


class Log:
    """A bounded queue of records, and the thread that writes them.  Any thread may log.

    Before `start` a record is written at once, by the thread that logs the record.
    """

    def __init__(self, sink: Sink, level: Level, *, capacity: int = QUEUE_CAPACITY) -> None:
        """`level`: the lowest level that is logged; `capacity`: records in the queue, at most."""
        self.sink = sink
        """The place that records are written to; may be replaced before `start`."""
        self.level = level
        self._capacity = capacity
        self._queue: SimpleQueue[Record | None] = SimpleQueue()
        self._client_records = TokenBucket()
        self._client_errors = TokenBucket(burst=300.0, rate=30.0)
        self._dropped = 0
        self._suppressed = 0
        self._unwritten = 0
        self.losses_before = (0, 0)
        """Records that the processes before this one have dropped and suppressed."""
        self._reported = (0, 0)
        """Records dropped and suppressed, as far as they are reported."""
        self._is_writing = False
        """Whether the sink has a record that it has not taken yet."""
        self._losses_reported_at = time.monotonic()
        self._thread: threading.Thread | None = None

    @property
    def losses(self) -> tuple[int, int]:
        """The records so far that were dropped and suppressed.  Any thread may ask."""
        before, reported = self.losses_before, self._reported
        dropped = before[0] + reported[0] + self._dropped + self._unwritten
        return dropped, before[1] + reported[1] + self._suppressed

    def start(self) -> None:
        """Start the thread that writes, after a fork: threads do not survive a fork.

        Main thread only.  Raises `StartError`.
        """
        thread = threading.Thread(target=self._write_all, name="log", daemon=True)
        start_thread(thread)
        self._thread = thread

    def put(self, record: Record) -> None:
        """Log a record, whatever its level."""
        # Without a lock: a handler may fork while another thread holds the lock, and a handler's
        # `__del__` may log while this thread holds it.  A race costs a limit or a count its
        # exactness.
        if self._thread is None:
            self._write(record)
            return
        serious = record.event.level.number >= WARNING.number
        bucket = self._client_errors if serious else self._client_records
        if record.event.per_client and not bucket.take():
            self._suppressed += 1
        elif self._queue.qsize() >= self._capacity + (RESERVED if serious else 0):
            self._dropped += 1
        else:
            self._queue.put(record)

    def stop(self) -> None:
        """Write the queued records and end the thread, within `LOG_LAST_TIMEOUT`.

        Main thread only.  Records that are not written by then, or behind a record that the sink
        does not take within `LOG_STOP_TIMEOUT`, are lost.
        """
        if self._thread is None:
            self.sink.flush(FLUSH_TIMEOUT)
        else:
            self._queue.put(None)
            until = time.monotonic() + LOG_LAST_TIMEOUT
            while self._thread.is_alive() and time.monotonic() < until:
                self._thread.join(LOG_STOP_TIMEOUT)
                if self._is_writing:
                    return

    def _write_all(self) -> None:
        while True:
            try:
                record = self._queue.get(timeout=self._until_loss_report())
            except Empty:
                self._report_losses()
                continue
            if record is None:
                break
            if self._until_loss_report() == 0.0 or record.event.final:
                self._report_losses()
            self._write(record)
        self._report_losses()
        self.sink.flush(FLUSH_TIMEOUT)

    def _write(self, record: Record) -> None:
        self._is_writing = True
        try:
            self.sink.write(record)
        except Exception:
            # OSError of the sink; or the memory for the text: this thread must not end with it.
            # Not added to `_dropped` yet: a report would fail too, and be followed by a report.
            self._unwritten += 1
        else:
            self._dropped += self._unwritten
            self._unwritten = 0
        self._is_writing = False

    def _until_loss_report(self) -> float | None:
        """Seconds until a loss may be reported; None where nothing was lost."""
        if not (self._dropped or self._suppressed):
            return None
        return max(0.0, self._losses_reported_at + LOSS_REPORT_INTERVAL - time.monotonic())

    def _report_losses(self) -> None:
        self._losses_reported_at = time.monotonic()
        dropped, self._dropped = self._dropped, 0
        suppressed, self._suppressed = self._suppressed, 0
        self._reported = self._reported[0] + dropped, self._reported[1] + suppressed
        for lost, count in ((events.LOG_DROPPED, dropped), (events.LOG_SUPPRESSED, suppressed)):
            if count:
                self._write(Record(lost, {"records": count}))


def open_log(level: str, sink: Sink) -> Log:
    """Send all events to `sink` from `level` up, and return the log to start and stop.

    `level`: a name in `LEVELS`, in upper or lower case.
    """
    log = Log(sink, LEVELS[level.upper()])
    event.destination = log
    return log
