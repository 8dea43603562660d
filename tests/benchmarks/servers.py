"""The servers that are compared, and one of them while it runs."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from provision import BUILD, DAEMON, HERE, PYTHON, TOP, MissingError, environment, inetd, program

REFERENCE = "c-epoll"
PEERS = HERE / "peers"
NANOSECOND = 1e-9
START_PATIENCE = 10.0
"""Seconds that a server has to answer."""
DEFAULT_MAX_CLIENTS = 4096
"""Of graced: for more a configuration file raises it."""
KERNEL_STACK = 16 * 1024
"""Bytes of kernel memory that each thread costs besides what smaps shows."""
RAISED = "[limits]\nmax_clients = 16000\n"
QUIET = "[log]\nconnections = false\n"
ON_UVLOOP = '[server]\nevent_loop = "uvloop"\n'


class Kind(NamedTuple):
    """A server that can be started."""

    name: str
    label: str
    command: Callable[[int], list[str]]
    """What to execute for a port."""
    most: int = 1000
    """The most clients it is asked to exchange messages with."""
    idle: int = 10_000
    """The most idle clients it is asked to keep."""
    forks: bool = False
    """Whether each client has a process."""
    tells: bool = True
    """Whether idle clients hear a farewell."""
    port: int = 0
    """The only one it can listen on; 0: any."""
    works: frozenset[str] = frozenset()
    """The only groups of work it takes part in; none: all."""
    raised: Callable[[int], list[str]] | None = None
    """What to execute for more clients than it admits by default."""


def _graced(*options: str, packages: Sequence[Path] = ()) -> Callable[[int], list[str]]:
    # What /usr/sbin/graced does: isolated, the package from a directory of its own.
    start = (
        f"import sys; sys.path[:0] = {[str(DAEMON), str(PEERS), *map(str, packages)]!r}; "
        "from graced.__main__ import main; sys.exit(main())"
    )

    def command(port: int) -> list[str]:
        return [PYTHON, "-I", "-c", start, "-l", f"127.0.0.1:{port}", *options]

    return command


def _python(script: str, *arguments: str) -> Callable[[int], list[str]]:
    return lambda port: [PYTHON, "-I", str(PEERS / script), str(port), *arguments]


def _config(name: str, text: str = "") -> list[str]:
    """The options that name a configuration: the shipped file, or that with `text` added."""
    shipped = TOP / "etc" / "graced.toml"
    content = shipped.read_text() if shipped.exists() else ""
    if not text:
        return ["-c", str(shipped)] if content else []
    # A section may appear once only: the key goes right below its own.
    section, rest = text.split("\n", 1)
    if section in content.splitlines():
        content = content.replace(f"{section}\n", f"{section}\n{rest}", 1)
    else:
        content += f"\n{text}"
    path = BUILD / f"{name}.toml"
    path.write_text(content)
    return ["-c", str(path)]


def _inetd() -> Kind:
    binary = str(inetd())
    try:
        port = socket.getservbyname("echo", "tcp")
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
    except OSError as error:
        raise MissingError(f"inetd's echo has one port only: {error}") from None
    config = BUILD / "inetd.conf"
    config.write_text("127.0.0.1:echo stream tcp nowait.1000000 root internal\n")
    return Kind(
        "inetd",
        "inetd, internal echo",
        lambda _port: [binary, "-i", "-R", "0", str(config)],
        most=128,
        idle=1000,
        forks=True,
        tells=False,
        port=port,
    )


def _socat() -> Kind:
    binary = "/usr/bin/socat"
    if not Path(binary).exists():
        raise MissingError("socat is not installed")
    # Blocks that a pipe takes whole: with larger ones it waits for itself to read.
    return Kind(
        "socat",
        "socat, fork",
        lambda port: [
            binary,
            "-b",
            "4096",
            f"TCP4-LISTEN:{port},bind=127.0.0.1,reuseaddr,nodelay,fork",
            "PIPE",
        ],
        most=128,
        idle=1000,
        forks=True,
        tells=False,
    )


def _uvloop() -> Kind:
    packages = environment("uvloop", "uvloop")
    return Kind("uvloop", "uvloop Protocol", _python("asyncio_echo.py", str(packages)))


def _graced_uvloop() -> Kind:
    packages = [environment("uvloop", "uvloop")]
    handler = ("-H", "asyncio_echo:Echo")
    return Kind(
        "graced-uvloop",
        "graced, asyncio handler on uvloop",
        _graced(*handler, *_config("uvloop", ON_UVLOOP), packages=packages),
        # Two descriptors for each: more than a process may usually have for 10,000.
        idle=1000,
    )


def _references() -> Iterator[Kind]:
    binary = str(program("references"))
    yield Kind(REFERENCE, "C epoll, one thread", lambda port: [binary, "epoll", str(port)])
    yield Kind("c-threads", "C, thread per client", lambda port: [binary, "threads", str(port)])


def kinds() -> Iterator[Kind | MissingError]:
    """All that can be had, and why not for the others, in the order of the tables."""
    reference, threads = _references()
    yield reference
    yield Kind(
        "graced",
        "graced as shipped",
        _graced(*_config("shipped")),
        raised=_graced(*_config("raised", RAISED)),
    )
    yield Kind(
        "graced-quiet",
        "graced, no connection log",
        _graced(*_config("quiet", QUIET)),
        works=frozenset({"churn"}),
    )
    for optional in (_uvloop,):
        try:
            yield optional()
        except MissingError as error:
            yield error
    yield Kind("asyncio", "asyncio Protocol", _python("asyncio_echo.py"))
    yield Kind(
        "graced-stream",
        "graced, StreamProtocol",
        _graced("-H", "stream_echo:Echo", *_config("shipped")),
        raised=_graced("-H", "stream_echo:Echo", *_config("raised", RAISED)),
    )
    try:
        yield _graced_uvloop()
    except MissingError as error:
        yield error
    yield Kind(
        "graced-asyncio",
        "graced, asyncio handler",
        _graced("-H", "asyncio_echo:Echo", *_config("shipped")),
        raised=_graced("-H", "asyncio_echo:Echo", *_config("raised", RAISED)),
    )
    yield threads
    yield Kind(
        "graced-threaded",
        "graced -H echo-threaded",
        _graced("-H", "echo-threaded", *_config("shipped")),
        most=128,
        idle=0,
        works=frozenset({"ping-pong", "bulk", "churn", "start"}),
    )
    yield Kind("threading", "ThreadingTCPServer", _python("threading_echo.py"), tells=False)
    yield Kind("article", "the article's server", _python("article.py"), tells=False)
    for other in (_inetd, _socat):
        try:
            yield other()
        except MissingError as error:
            yield error


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """A server that runs, as a context manager; it and its children are gone at the end."""

    def __init__(self, kind: Kind, cpu: str, clients: int = 0) -> None:
        """`cpu`: where it runs.  `clients`: how many it must admit at least."""
        self.kind = kind
        self.cpu = cpu
        self.port = kind.port or free_port()
        more = clients > DEFAULT_MAX_CLIENTS and kind.raised
        self.command = (more or kind.command)(self.port)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Of the first process."""
        assert self._process
        return self._process.pid

    def __enter__(self) -> Server:
        self._process = subprocess.Popen(
            [str(BUILD / "load"), "become", self.cpu, *self.command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"},
            start_new_session=True,
        )
        try:
            self._wait_until_up()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, *_exception: object) -> None:
        self.kill()

    def _wait_until_up(self) -> None:
        assert self._process
        give_up = time.monotonic() + START_PATIENCE
        while time.monotonic() < give_up and self._process.poll() is None:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            time.sleep(0.005)
        raise MissingError(f"{self.kind.label} does not start (exit {self._process.returncode})")

    def terminate(self) -> int:
        """Send SIGTERM, and say when (monotonic ns)."""
        assert self._process
        now = time.monotonic_ns()
        self._process.send_signal(signal.SIGTERM)
        return now

    def wait(self, seconds: float) -> int:
        """Wait for the end, and say when it was (monotonic ns).

        Blocking where the standard library would poll: this is a measurement.
        """
        assert self._process
        descriptor = os.pidfd_open(self.pid)
        try:
            if not _readable(descriptor, seconds):
                raise MissingError(f"{self.kind.label} does not end within {seconds:g} s")
            now = time.monotonic_ns()
        finally:
            os.close(descriptor)
        self._process.wait()
        return now

    def kill(self) -> None:
        """End it and its children now."""
        process = self._process
        if not process or process.poll() is not None:
            return
        pids = self.pids()
        process.kill()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()

    def pids(self) -> list[int]:
        """The process and its descendants; any of those may end at any time."""
        found = [self.pid]
        for pid in found:
            with contextlib.suppress(OSError):
                for children in Path(f"/proc/{pid}/task").glob("*/children"):
                    found += [int(child) for child in children.read_text().split()]
        return found

    def cpu_seconds(self) -> float:
        """What it and all its threads and children, also those that have ended, have used."""
        if not self._process or self._process.returncode is not None:
            return 0.0
        total = 0.0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                # The clock of another process (clock_getcpuclockid(3)): exact, unlike stat.
                total += time.clock_gettime_ns((~pid << 3) | 2) * NANOSECOND
                ended = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[13:15]
                total += sum(map(int, ended)) / os.sysconf("SC_CLK_TCK")
        return total

    def settle(self) -> None:
        """Wait until it has finished what there was to do."""
        before = -1.0
        for _ in range(200):
            now = self.cpu_seconds()
            if now - before < 0.0005:
                return
            before = now
            time.sleep(0.02)

    def memory(self) -> int:
        """Bytes: the proportional set size of all processes, and their kernel stacks."""
        total = 0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                total += len(os.listdir(f"/proc/{pid}/task")) * KERNEL_STACK
                rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
                total += _field(rollup, "Pss:") * 1024
        return total

    def switches(self) -> int:
        """Context switches so far, of all threads that live."""
        total = 0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                for status in Path(f"/proc/{pid}/task").glob("*/status"):
                    text = status.read_text()
                    total += _field(text, "voluntary_ctxt_switches:")
                    total += _field(text, "nonvoluntary_ctxt_switches:")
        return total

    def resident(self) -> dict[str, int]:
        """Resident bytes of the first process, by what they are for."""
        parts: dict[str, int] = {}
        what = ""
        for line in Path(f"/proc/{self.pid}/smaps").read_text().splitlines():
            words = line.split()
            if "-" in words[0]:
                what = _purpose(words[5] if len(words) > 5 else "")
            elif words[0] == "Rss:":
                parts[what] = parts.get(what, 0) + int(words[1]) * 1024
        return parts


def _field(text: str, name: str) -> int:
    for line in text.splitlines():
        words = line.split()
        if words[0] == name:
            return int(words[1])
    return 0


def _readable(descriptor: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def _purpose(path: str) -> str:
    name = Path(path).name
    if name.startswith("python3"):
        return "the interpreter"
    if path == "[heap]":
        return "heap (malloc)"
    if not path or path.startswith("[anon"):
        return "anonymous (objects, buffers, stacks of threads)"
    if path.startswith("["):
        return "stack and vdso"
    if ".so" in name:
        return "libc, libm, loader" if "python" not in path else "extension modules"
    return "other files (locale)"
