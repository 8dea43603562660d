"""gracectl(1): for people at a terminal, and for scripts.

From the arguments to the exit status; what goes over the wire is in `graced.ctl.session`.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import NamedTuple, TypeVar

from graced import __version__
from graced.ctl.session import (
    FAREWELL,
    MAX_COUNT,
    MAX_SIZE,
    MIN_SIZE,
    Closed,
    Event,
    Farewell,
    Lost,
    Mismatch,
    Plan,
    RoundTrip,
    Session,
)
from graced.sockets.address import Address

ALL_BACK = 0
SOME_LOST = 1
GOING_OFFLINE = 3
NO_CONNECTION = os.EX_UNAVAILABLE

DEFAULT_ADDRESS = "localhost:9999"
DEFAULT_PORT = 9999
MAX_SECONDS = 86_400
MIN_TIMEOUT = 0.001
"""Seconds; poll(2) counts in milliseconds."""

_BY_SIGNAL = 128  # what a shell adds to the number of the signal that ended a command
_Number = TypeVar("_Number", int, float)


def parse_address(text: str) -> Address:
    """Read ``HOST[:PORT]``, ``[IPV6][:PORT]`` or ``unix:/PATH``.

    Raises `argparse.ArgumentTypeError` for anything else.
    """
    bare = not text.startswith("unix:") and (":" not in text or text.endswith("]"))
    try:
        address = Address.parse(f"{text}:{DEFAULT_PORT}" if bare else text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} {error}") from None
    if not address.path and address.port == 0:
        raise argparse.ArgumentTypeError(f"{text!r} must name a port")
    return address


def connect(address: Address, timeout: float) -> tuple[socket.socket, Address]:
    """Connect, trying each address of a host for at most `timeout` seconds.

    Returns the socket and whom it is connected to, in numbers.  Raises `OSError`, and
    `UnicodeError` for what cannot be the name of a host.
    """
    with contextlib.ExitStack() as undo:
        if address.path:
            sock = undo.enter_context(socket.socket(socket.AF_UNIX))
            sock.settimeout(timeout)
            sock.connect(address.path)
            peer = address
        else:
            target = (address.host, address.port)
            sock = undo.enter_context(socket.create_connection(target, timeout))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            name = sock.getpeername()
            if name == sock.getsockname():
                # TCP lets a socket connect to itself, and the kernel may pick for it the very
                # port that nobody listens on: a flawless echo, of nobody.
                raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
            host, port = socket.getnameinfo(name, socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)
            peer = Address(host, int(port))
        undo.pop_all()
    return sock, peer


class Summary(NamedTuple):
    """The last word on a session; the figures are those of ping(8), in milliseconds."""

    address: str
    peer: str
    sent: int
    received: int
    """In time, and right."""
    lost: int
    loss_percent: float
    time_ms: float
    rtt_ms: dict[str, float] | None
    """min, avg, max and mdev; None if nothing was received."""
    exit_status: int


def summarise(
    address: Address, peer: Address, session: Session, seconds: float, last: Event | None
) -> Summary:
    """Add up a session that took so many seconds and whose last event was `last`."""
    if isinstance(last, Farewell):
        status = GOING_OFFLINE
    elif session.lost or isinstance(last, Mismatch | Closed):
        status = SOME_LOST
    else:
        status = ALL_BACK
    return Summary(
        address=str(address),
        peer=str(peer),
        sent=session.sent,
        received=session.times.count,
        lost=session.lost,
        loss_percent=100 * session.lost / session.sent if session.sent else 0.0,
        time_ms=seconds * 1e3,
        rtt_ms=session.times.figures_ms(),
        exit_status=status,
    )


def as_json(event: Event | Summary) -> str:
    """The line for programs: which event it is, and its fields."""
    return json.dumps({"event": type(event).__name__.lower(), **event._asdict()})


def as_text(event: Event | Summary, peer: Address) -> str:
    """The line for people, in the words of ping(8)."""
    match event:
        case RoundTrip(seq, size, time_ms, late):
            note = " (late)" if late else ""
            return f"{size} bytes from {peer}: seq={seq} time={time_ms:.3f} ms{note}"
        case Lost(seq, waited_ms):
            return f"no reply from {peer}: seq={seq} waited={waited_ms:.0f} ms"
        case Farewell():
            return f"farewell from {peer}: the server is going offline, closing the connection"
        case Mismatch(_, seq, expected, got):
            due = f"seq={seq} expected={expected:#04x}" if expected is not None else "unasked"
            return f"wrong byte from {peer}: {due} got={got:#04x}, closing the connection"
        case Closed(reason):
            return f"connection to {peer} lost: {reason}"
    text = (
        f"\n--- {event.address} ping statistics ---\n"
        f"{event.sent} sent, {event.received} received, {event.loss_percent:g}% loss,"
        f" time {event.time_ms:.0f} ms"
    )
    if event.rtt_ms is not None:
        figures = "/".join(f"{figure:.3f}" for figure in event.rtt_ms.values())
        text += f"\nrtt {'/'.join(event.rtt_ms)} = {figures} ms"
    return text


@contextlib.contextmanager
def interrupts() -> Iterator[socket.socket]:
    """Ctrl-C as a socket that becomes readable, so that it cuts no line and no figure in two.

    A second Ctrl-C raises KeyboardInterrupt as ever, in case the first is not looked at: the
    output may be a pipe that is full.
    """
    readable, written = socket.socketpair()

    def first(_signum: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)

    with readable, written:
        written.setblocking(False)
        wakeup_fd = signal.set_wakeup_fd(written.fileno(), warn_on_full_buffer=False)
        handler = signal.signal(signal.SIGINT, first)
        try:
            yield readable
        finally:
            signal.signal(signal.SIGINT, handler)
            signal.set_wakeup_fd(wakeup_fd)


def run_ping(arguments: argparse.Namespace) -> int:
    """Do ``gracectl ping``; return its exit status.  Raises `OSError` for its output only."""
    address: Address = arguments.address
    plan = Plan(
        pings=arguments.count,
        interval=arguments.interval,
        size=arguments.size,
        timeout=arguments.timeout,
        farewell=arguments.farewell,
    )
    try:
        sock, peer = connect(address, plan.timeout)
    except (OSError, UnicodeError) as error:
        reason = "not a host name" if isinstance(error, UnicodeError) else error.strerror or error
        _complain(f"cannot connect to {address}: {reason}")
        return NO_CONNECTION

    def say(event: Event | Summary) -> None:
        print(as_json(event) if arguments.json else as_text(event, peer), flush=True)

    last: Event | None = None
    started = time.monotonic()
    with sock, interrupts() as interrupt:
        if not arguments.json:
            print(f"PING {address} ({peer}): {plan.size} bytes of data", flush=True)
        session = Session(sock, plan, interrupt)
        for last in session.run():
            if isinstance(last, Farewell):
                sock.close()  # first of all: the server waits for it, and our output may be slow
            say(last)
        summary = summarise(address, peer, session, time.monotonic() - started, last)
    say(summary)
    return summary.exit_status


def _number(
    convert: Callable[[str], _Number], least: _Number, most: _Number
) -> Callable[..., _Number]:
    def parse(text: str) -> _Number:
        with contextlib.suppress(ValueError):
            number = convert(text)
            if least <= number <= most:  # which NaN is not
                return number
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from {least} to {most}")

    return parse


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gracectl",
        description="Talk to graced(8), a TCP server that says goodbye properly.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    command = commands.add_parser(
        "ping",
        help="send payloads and verify their echoes, until the server says goodbye",
        description="Send payloads to an echo server, verify what comes back, and leave when the"
        " server says that it is going offline.",
        epilog="Exit status: 0 all came back, 1 some were lost or wrong, 2 usage, 3 the server is"
        " going offline, 69 no connection.",
        allow_abbrev=False,
    )
    command.set_defaults(run=run_ping)
    command.add_argument(
        "address",
        metavar="ADDRESS",
        nargs="?",
        type=parse_address,
        default=DEFAULT_ADDRESS,
        help="HOST:PORT, [IPV6-ADDRESS]:PORT or unix:/PATH (%(default)s)",
    )
    command.add_argument(
        "-c",
        "--count",
        metavar="COUNT",
        type=_number(int, 1, MAX_COUNT),
        help="stop after so many pings (at Ctrl-C only)",
    )
    command.add_argument(
        "-i",
        "--interval",
        metavar="SECONDS",
        type=_number(float, 0, MAX_SECONDS),
        default=Plan().interval,
        help="from one ping to the next; 0: as soon as the reply is there (%(default)g)",
    )
    command.add_argument(
        "-s",
        "--size",
        metavar="BYTES",
        type=_number(int, MIN_SIZE, MAX_SIZE),
        default=Plan().size,
        help=f"in each payload, {MIN_SIZE} to {MAX_SIZE} (%(default)d)",
    )
    command.add_argument(
        "-W",
        "--timeout",
        metavar="SECONDS",
        type=_number(float, MIN_TIMEOUT, MAX_SECONDS),
        default=Plan().timeout,
        help="to wait for the connection, and for each reply (%(default)g)",
    )
    command.add_argument(
        "--farewell",
        metavar="TEXT",
        type=os.fsencode,
        default=os.fsdecode(FAREWELL),
        help="what the server says when it goes offline (%(default)s)",
    )
    command.add_argument(
        "--json", action="store_true", help="one JSON object a line for each ping, and a summary"
    )
    return parser


def _complain(message: str) -> None:
    print(f"gracectl: {message}", file=sys.stderr)


def _discard_output() -> None:
    """Let the interpreter's last flush, which would fail and be reported, go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main(argv: Sequence[str] | None = None) -> int:
    """Run gracectl with these arguments, those of the process by default.

    Returns the exit status.  Raises `SystemExit` as argparse does: 2 for wrong usage, 0 after
    ``--help`` and ``--version``.
    """
    arguments = _parser().parse_args(argv)
    try:
        status: int = arguments.run(arguments)
    except KeyboardInterrupt:
        return _BY_SIGNAL + signal.SIGINT
    except BrokenPipeError:  # nobody reads on, as with `gracectl ping | head`
        _discard_output()
        return _BY_SIGNAL + signal.SIGPIPE
    except OSError as error:
        _discard_output()
        _complain(f"cannot write: {error.strerror or error}")
        return SOME_LOST
    return status


if __name__ == "__main__":
    sys.exit(main())
