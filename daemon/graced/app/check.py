"""A check of everything that can refuse a start, without a start.

Two callers: ``graced --check-config`` for a person, and `graced.app.preflight` for a daemon that
is about to hand its clients over to the next start.

A start is judged for the process that will start, as far as this process can be like that process:

=====================  ==============================  =====================================
                       --check-config                  preflight
=====================  ==============================  =====================================
user                   the user of the service, if     the user of the daemon
                       root checks; else the caller
descriptors, tasks     limits of the service, if       limits at the start of the daemon, or
                       systemd knows the unit          of the unit, if those are higher
addresses in use       by the service: no matter       by the daemon: no matter
sandbox of the unit    not checked                     the sandbox of the daemon
=====================  ==============================  =====================================

Nothing is left behind: addresses are bound and closed at once, no path and no file is made, no
lock is taken, and the service manager hears nothing.
"""

from __future__ import annotations

import errno
import os
import pkgutil
import resource
import stat
from contextlib import contextmanager
from importlib import import_module
from types import SimpleNamespace

import graced
from graced.app import certificates, handler_path, loop_choice, occupancy, unit
from graced.app.instance import MAIN, OPTION
from graced.errors import (
    AlreadyRunningError,
    ConfigError,
    GracedError,
    PidFileError,
    UnresolvedError,
)
from graced.handlers import registry
from graced.loop.acceptor import MAX_LINGERING
from graced.process import limits
from graced.sockets import binding, tls
from graced.sockets.inherited_listeners import is_alive
from graced.sockets.resolver import may_come_later, socket_addresses

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from graced.app.instance import Instance
    from graced.app.settings import Settings
    from graced.app.unit import Unit
    from graced.sockets.address import Address


class Subject(SimpleNamespace):
    """The process of the start that is judged."""

    unit: Unit | None = None
    """The unit, if systemd knows a unit."""
    is_like_us: bool = True
    """Whether this process has the same user, and so the same permissions."""
    ours: frozenset[int] | None = frozenset()
    """Inodes of the sockets of the running service, which are no obstacle.  None: not known."""
    knows_service: bool = False
    """Whether `ours` is complete, so that any other socket at an address is an obstacle."""
    managed: bool = False
    """Whether a service manager starts the service, so that a name may be resolved later."""
    descriptors: int
    """The limit of descriptors."""
    goes_on: bool = False
    """Whether the start goes on without an address or a pidfile that it cannot get now."""
    unknown: Sequence[str] = ()
    """What could not be found out about it."""
    gets_listeners: str = ""
    """The unit that passes the listening sockets, so that no address is bound; empty: none."""


def subject(instance: Instance = MAIN) -> Subject:
    """The subject of ``--check-config``: the service if it exists, else this command.

    As root, this process becomes the user of the service, for good.
    """
    failures: list[str] = []
    service = unit.find(instance.unit, failures)
    if service is None:
        return Subject(descriptors=limits.hard_descriptors(), unknown=failures)
    ours = occupancy.sockets_of(service.pid) if service.pid else frozenset[int]()
    return Subject(
        unit=service,
        managed=True,
        is_like_us=_become(service),
        ours=ours,
        knows_service=ours is not None,
        descriptors=service.descriptors,
        gets_listeners=service.sockets,
    )


def _become(service: Unit) -> bool:
    """Take on the user and the groups of a service; return whether that succeeded."""
    from grp import getgrnam  # noqa: PLC0415
    from pwd import getpwnam, getpwuid  # noqa: PLC0415

    try:
        user = getpwnam(service.user) if service.user else getpwuid(0)
        group = getgrnam(service.group).gr_gid if service.group else user.pw_gid
        others = [getgrnam(name).gr_gid for name in service.groups]
    except KeyError:
        return False
    if os.geteuid() == 0 != user.pw_uid:
        os.initgroups(user.pw_name, group)
        os.setgroups(sorted({*os.getgroups(), *others}))
        os.setresgid(group, group, group)
        os.setresuid(user.pw_uid, user.pw_uid, user.pw_uid)
    return os.geteuid() == user.pw_uid


class Check:
    """A check of one start.  `notes` lists everything that could not be checked.

    `doubts` lists what a start does not refuse, and clients may.
    """

    def __init__(self, subject: Subject, environ: Mapping[str, str]) -> None:
        self.notes = list(subject.unknown)
        self.doubts: list[str] = []
        self._subject = subject
        self._environ = environ

    def run(
        self, load: Callable[[], Settings], pid_file: Callable[[Settings], str | None]
    ) -> Settings:
        """Return the settings, or raise the `GracedError` with which the start would be refused.

        `load` reads the configuration; `pid_file` names the pidfile, if any.
        """
        service = self._subject.unit
        if service:
            if not self._subject.is_like_us:
                self.notes.append(
                    f"what {service.user or 'root'}, the user of {service.name}, may read and"
                    " write: only root can check that"
                )
            if words := _added(service):
                self.notes.append(f"options that {service.name} adds: {' '.join(words)}")
        settings = load()
        import_everything()
        handler = handler_path.prepare(settings, self._environ)
        if settings.has_tls:
            self._check_certificate(settings)
        others = MAX_LINGERING + loop_choice.copies(settings, handler)
        limit = self._limit(settings.max_clients + others)
        limits.check_descriptors(settings.max_clients, others, limit)
        if registry.blocks(handler):
            tasks = service.tasks if service else None
            lack = limits.lack_of_tasks(settings.max_handler_threads, tasks)
            if lack:
                self.notes.append(f"enough threads: {lack}")
        path = pid_file(settings)
        if path:
            with self._going_on():
                self._check_pid_file(os.path.abspath(path))
        self._check_addresses(settings.listen, settings.agent)
        return settings

    @contextmanager
    def _going_on(self) -> Iterator[None]:
        """Make a note of an error that the start goes on after."""
        try:
            yield
        except GracedError as error:
            if not (self._subject.goes_on and error.passes):
                raise
            self.notes.append(str(error))

    def _limit(self, clients: int) -> int:
        """The limit of descriptors; `clients`: those that are needed for clients.

        A daemon still runs under the old limit when its unit has been given a higher limit.
        """
        need = clients + limits.OWN_DESCRIPTORS
        limit: int = self._subject.descriptors
        if limit != resource.RLIM_INFINITY and need > limit and not self._subject.unit:
            own = unit.own_name()
            found = unit.find(own) if own else None
            if found:
                return found.descriptors
        return limit

    def _check_certificate(self, settings: Settings) -> None:
        """Raise `ConfigError` for files without use; `doubts` gets what clients may object to."""
        passed = certificates.credentials(settings)
        if passed and certificates.DIRECTORY not in self._environ:
            self.notes.append(f"the credentials {', '.join(passed)}: only the service has them")
        elif self._subject.is_like_us:
            context = certificates.context_of(settings, self._environ)
            path = certificates.certificate_of(settings, self._environ)
            if reason := tls.doubt(context, path):
                self.doubts.append(f"{path}: {reason}")

    # Addresses.

    def _check_addresses(self, addresses: tuple[Address, ...], agent: Address | None) -> None:
        service = self._subject.unit
        if self._subject.gets_listeners:
            addresses = ()
        occupancy.refuse_overlaps(addresses, agent)
        if service and service.private_network:
            self.notes.append(f"addresses: {service.name} has a network of its own")
            return
        for address in (*addresses, agent) if agent else addresses:
            with self._going_on():
                if address.path:
                    self._check_path(address)
                else:
                    self._check_port(address)

    def _check_port(self, address: Address) -> None:
        absent: OSError | None = None
        bound = False
        try:
            places = socket_addresses(address)
        except UnresolvedError as error:
            if not self._subject.managed:
                raise
            self.notes.append(str(error))
            return
        for family, place in places:
            try:
                occupancy.try_to_bind(address, family, place)
            except OSError as error:
                if error.errno in binding.NOT_ON_THIS_MACHINE:
                    absent = error
                    continue
                self._judge(address, error, family, str(place[0]))
            bound = True
        if absent and not bound:
            if absent.errno != errno.EADDRNOTAVAIL or not may_come_later(address):
                raise binding.refusal(address, absent)
            self.notes.append(f"{address}: this machine does not have the address at present")

    def _judge(self, address: Address, error: OSError, family: int, host: str) -> None:
        """Raise `ListenError`, unless the error does not hold for the subject."""
        service = self._subject.unit
        if error.errno == errno.EADDRINUSE:
            self._judge_use(address, occupancy.listening_at(family, host, address.port))
        elif error.errno != errno.EACCES or not (service and service.binds_low_ports):
            raise binding.refusal(address, error)

    def _judge_use(self, address: Address, holders: set[int]) -> None:
        ours = self._subject.ours or frozenset()
        if holders and holders <= ours:
            return
        if self._subject.knows_service:
            raise binding.refusal(address, _error(errno.EADDRINUSE))
        note = f"{address}: it is in use at present, maybe by the service itself"
        if note not in self.notes:
            # A host name stands for several addresses.
            self.notes.append(note)

    def _check_path(self, address: Address) -> None:
        self._check_directory(
            os.path.dirname(address.path), lambda error: binding.refusal(address, error)
        )
        try:
            is_socket = stat.S_ISSOCK(os.lstat(address.path).st_mode)
        except OSError:
            return
        ours = self._subject.ours or frozenset()
        holders = occupancy.listening_at_path(address.path)
        if not is_socket:
            raise binding.refusal(address, _error(errno.EADDRINUSE))
        # Programs elsewhere, as in a container, may listen at a path of the same name.
        if holders and not holders & ours and is_alive(address.path):
            self._judge_use(address, holders)

    # Files.

    def _check_directory(self, directory: str, refusal: Callable[[OSError], GracedError]) -> None:
        """Raise the refusal of a start that could make no file there."""
        service = self._subject.unit
        if not os.path.isdir(directory):
            made = service.runtime_directories if service else []
            if directory not in made:
                raise refusal(_error(errno.ENOENT))
        elif self._subject.is_like_us and not _may(directory, os.W_OK | os.X_OK):
            raise refusal(_error(errno.EACCES))

    def _check_pid_file(self, path: str) -> None:
        def refusal(why: str) -> GracedError:
            return PidFileError(f"cannot write pidfile {path}: {why}")

        directory = os.path.dirname(path)
        self._check_directory(directory, lambda error: refusal(str(error.strerror)))
        try:
            if os.stat(directory).st_mode & stat.S_IWOTH:
                raise refusal(f"everybody may write to {directory}")
            status = os.lstat(path)
        except OSError:
            return
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
            raise refusal("it is no plain file")
        if self._subject.is_like_us:
            if status.st_uid not in {os.geteuid(), 0}:
                raise refusal(f"it belongs to user {status.st_uid}")
            if not _may(path, os.R_OK | os.W_OK):
                raise refusal(os.strerror(errno.EACCES))
        service = self._subject.unit
        if service and _is_locked(status) and not service.pid:
            raise AlreadyRunningError(f"already running: {path} is locked")


def _added(service: Unit) -> list[str]:
    """Options in the unit that those of the packages do not have."""
    _, _, instance = service.name.removesuffix(".service").partition("@")
    shipped = {"-d", "--daemon", "-i", OPTION, instance}
    return [word for word in service.options if word not in shipped]


def _error(code: int) -> OSError:
    return OSError(code, os.strerror(code))


def _may(path: str, mode: int) -> bool:
    # Containers of some age forbid faccessat2(2), which is asked for effective ids only.
    differ = os.geteuid() != os.getuid() or os.getegid() != os.getgid()
    return os.access(path, mode, effective_ids=differ)


def _is_locked(status: os.stat_result) -> bool:
    """Whether a process holds a lock on the file.  To try the lock could refuse a real start."""
    device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    try:
        with open("/proc/locks", encoding="ascii") as file:
            return any("FLOCK" in line and device in line.split() for line in file)
    except OSError:
        return False


def import_everything() -> None:
    """Import every module of graced, and every module that a start or a drain imports late.

    Raises `ConfigError`: an upgrade may be half done, or a file damaged.
    """

    def is_reported_below(_package: str) -> None:
        """Ignore the failure of a package, whose name is in the list all the same."""

    walk = pkgutil.walk_packages(graced.__path__, "graced.", onerror=is_reported_below)
    found = [each.name for each in walk]
    # The program itself blocks signals, and imports nothing that is not imported here.
    names = [name for name in found if not name.endswith(".__main__")]
    for name in ("daemon", "logging", "socketserver", "tomllib", "traceback", *names):
        try:
            import_module(name)
        except (Exception, SystemExit) as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise ConfigError(f"{name} cannot be imported: {reason}") from error
