"""gracectl(1): from the arguments to the exit status.

The echo client itself is `graced.ctl.session`.
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
from graced.app import configuration
from graced.app.instance import MAIN, Instance, named
from graced.app.parser import Parser
from graced.ctl import clients, close, drain, log_level, metrics, reload, tell, top
from graced.ctl import status as status_command
from graced.ctl.control import ControlError
from graced.ctl.matcher import FAREWELL, MAX_COUNT, MAX_SIZE, MIN_SIZE, Farewell, Mismatch
from graced.ctl.session import Closed, Event, Lost, Plan, RoundTrip, Session
from graced.errors import ConfigError, UsageError
from graced.sockets.address import Address

ALL_BACK = 0
SOME_LOST = 1
GOING_OFFLINE = 3
WRONG_USAGE = UsageError.status
NO_CONNECTION = os.EX_UNAVAILABLE

DEFAULT_ADDRESS = Address("localhost", 9999)
"""For a configuration that cannot be read, or names no port."""
DEFAULT_PORT = DEFAULT_ADDRESS.port
MAX_SECONDS = 86_400
MIN_TIMEOUT = 0.001
"""Seconds; poll(2) counts in milliseconds."""

_BY_SIGNAL = 128  # what a shell adds to the number of the signal that ended a command
_CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))}
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
    if address.tls:
        raise argparse.ArgumentTypeError(f"{text!r} must have no tls:, which ping does not speak")
    if not address.path and address.port == 0:
        raise argparse.ArgumentTypeError(f"{text!r} must name a port")
    return address


def configured_address(instance: Instance = MAIN) -> Address:
    """The first address of graced.toml(5) that a client can connect to, or `DEFAULT_ADDRESS`.

    Raises `UsageError` where an instance has no configuration that can be read, or where all of
    its addresses have TLS.
    """
    try:
        listen = configuration.load(None, {}, instance).listen
    except ConfigError as error:
        if instance.name:
            # The default is the address of another service.
            raise UsageError(str(error)) from None
        return DEFAULT_ADDRESS
    if all(address.tls for address in listen):
        raise UsageError("ping does not speak TLS, and all addresses of the configuration do")
    for address in listen:
        if (address.path or address.port) and not address.tls:
            return Address("localhost", address.port) if address.host == "*" else address
    return DEFAULT_ADDRESS


def connect(address: Address, timeout: float) -> tuple[socket.socket, Address]:
    """Connect, trying each address of a host for at most `timeout` seconds.

    Returns the socket and the numeric address of its peer.  Raises `OSError`, and `UnicodeError`
    for a text that cannot be the name of a host.
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
                # TCP lets a socket connect to itself: the kernel may have picked the port to
                # which it connects, and would return a flawless echo.
                raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
            host, port = socket.getnameinfo(name, socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)
            peer = Address(host, int(port))
        undo.pop_all()
    return sock, peer


class Summary(NamedTuple):
    """The summary of a session, with the figures of ping(8) in milliseconds."""

    address: str
    peer: str
    sent: int
    received: int
    """Replies in time, and right."""
    lost: int
    loss_percent: float
    time_ms: float
    rtt_ms: dict[str, float] | None
    """min, avg, max and mdev; None: no reply was received."""
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
    """The line for programs: the name of the event, and its fields."""
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
    """Ctrl-C as a socket that becomes readable, so that no line is cut in two.

    A caller that ignores SIGINT (``gracectl ping &`` in a script) asks for no Ctrl-C.
    A second Ctrl-C raises `KeyboardInterrupt`, in case the first cannot be noticed: the output
    may be a pipe that is full.
    """
    readable, written = socket.socketpair()

    def first(_signum: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)

    with readable, written:
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
            yield readable
            return
        written.setblocking(False)
        wakeup_fd = signal.set_wakeup_fd(written.fileno(), warn_on_full_buffer=False)
        handler = signal.signal(signal.SIGINT, first)
        try:
            yield readable
        finally:
            signal.signal(signal.SIGINT, handler)
            signal.set_wakeup_fd(wakeup_fd)


def run_ping(arguments: argparse.Namespace) -> int:
    """Run ``gracectl ping`` and return its exit status.  Raises `OSError` for its output only."""
    address: Address = arguments.address or configured_address(arguments.instance)
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
                sock.close()  # before any output, which may be slow: the server waits for our end
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


def parser() -> Parser:
    """The parser of gracectl(1)."""
    found = Parser(
        prog="gracectl", description="Talk to graced(8), a TCP server that says goodbye properly."
    )
    found.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    found.add_argument(
        "-i",
        "--instance",
        metavar="NAME",
        type=named,
        default=MAIN,
        help="the service graced@NAME instead of graced",
    )
    commands = found.add_subparsers(metavar="COMMAND", required=True)

    command = commands.add_parser(
        "ping",
        help="send payloads and verify their echoes, until the server says goodbye",
        description="Send payloads to an echo server, verify what comes back, and leave when the"
        " server says that it is going offline.",
        epilog="Exit status: 0 all came back, 1 some were lost or wrong, 2 usage, 3 the server is"
        " going offline, 69 no connection.",
    )
    command.set_defaults(run=run_ping)
    command.add_argument(
        "address",
        metavar="ADDRESS",
        nargs="?",
        type=parse_address,
        help="HOST:PORT, [IPV6-ADDRESS]:PORT or unix:/PATH"
        f" (default: the first one in graced.toml, else {DEFAULT_ADDRESS})",
    )
    command.add_argument(
        "-c",
        "--count",
        metavar="COUNT",
        type=_number(int, 1, MAX_COUNT),
        help="stop after so many pings (default: at Ctrl-C)",
    )
    command.add_argument(
        "-i",
        "--interval",
        metavar="SECONDS",
        type=_number(float, 0, MAX_SECONDS),
        default=Plan().interval,
        help="from one ping to the next; 0: as soon as the reply is there (default: %(default)g)",
    )
    command.add_argument(
        "-s",
        "--size",
        metavar="BYTES",
        type=_number(int, MIN_SIZE, MAX_SIZE),
        default=Plan().size,
        help=f"in each payload, {MIN_SIZE} to {MAX_SIZE} (default: %(default)d)",
    )
    command.add_argument(
        "-W",
        "--timeout",
        metavar="SECONDS",
        type=_number(float, MIN_TIMEOUT, MAX_SECONDS),
        default=Plan().timeout,
        help="to wait for the connection, and for each reply (default: %(default)g)",
    )
    command.add_argument(
        "--farewell",
        metavar="TEXT",
        type=os.fsencode,
        default=os.fsdecode(FAREWELL),
        help="the words of the server when it goes offline (default: %(default)s)",
    )
    command.add_argument(
        "--json", action="store_true", help="one JSON object a line for each ping, and a summary"
    )
    status_command.add_command(commands)
    clients.add_command(commands)
    close.add_command(commands)
    drain.add_command(commands)
    log_level.add_command(commands)
    metrics.add_command(commands)
    reload.add_command(commands)
    tell.add_command(commands)
    top.add_command(commands)
    return found


def _complain(message: object) -> None:
    print(f"gracectl: {str(message).translate(_CONTROL)}", file=sys.stderr)


def _discard_output() -> None:
    """Discard the output that is left: the interpreter would flush it, fail and report that."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main(argv: Sequence[str] | None = None) -> int:
    """Run gracectl with these arguments, by default with the arguments of the process.

    Returns the exit status.  Raises `SystemExit` after ``--help`` and ``--version``.
    """
    try:
        arguments = parser().parse_args(argv)
        status: int = arguments.run(arguments)
        sys.stdout.flush()
    except UsageError as error:
        _complain(error)
        return WRONG_USAGE
    except ControlError as error:
        _complain(error)
        return error.status
    except KeyboardInterrupt:
        return _BY_SIGNAL + signal.SIGINT
    except BrokenPipeError:  # the reader is gone, as with `gracectl ping | head`
        _discard_output()
        return _BY_SIGNAL + signal.SIGPIPE
    except OSError as error:
        _discard_output()
        _complain(f"cannot write: {error.strerror or error}")
        return SOME_LOST
    return status


if __name__ == "__main__":
    sys.exit(main())
