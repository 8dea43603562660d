"""Places: where listeners are, and where the configuration wants them by now.

The name of a host gets another address, and an interface that comes back gets another number.  The
listener of before stays at a place that the configuration does not ask for, and that perhaps
nobody reaches.
"""

from __future__ import annotations

from graced.errors import ListenError
from graced.sockets.address import format_address, real_path
from graced.sockets.resolver import is_name, socket_addresses

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from graced.sockets.address import Address
    from graced.sockets.listener import Listener
    from graced.sockets.resolver import SockAddrs


class Places:
    """The places of listeners.  One thread may look for new places, while the main thread reads."""

    def __init__(
        self, addresses: Iterable[Address] = (), listeners: Iterable[Listener] = ()
    ) -> None:
        """`addresses`: of the configuration.  `listeners`: those that are there."""
        self._present = {place(each.sock.getsockname()) for each in listeners}
        self._fixed: set[str] = set()
        """Where the numbers of the configuration are."""
        self._moving: dict[int, dict[str, frozenset[str] | None]] = {}
        """By port: where each name is; None: there was no full answer yet."""
        for address in addresses:
            if address.path:
                continue
            try:
                known = None if is_name(address) else _places(address, socket_addresses(address))
            except ListenError:
                known = None
            if known is None:
                self._moving.setdefault(address.port, {})[str(address)] = None
            else:
                self._fixed |= known

    def add(self, listeners: Iterable[Listener]) -> None:
        """Note new listeners."""
        self._present.update(place(each.sock.getsockname()) for each in listeners)

    def missing(self, address: Address, answers: SockAddrs) -> SockAddrs:
        """The answers for an address at which no listener is."""
        return [each for each in answers if _place_of(address, each[1]) not in self._present]

    def note(self, address: Address, answers: SockAddrs) -> None:
        """Note the full answer for a name: it is at all of these places and nowhere else."""
        if str(address) in self._moving.get(address.port, {}):
            self._moving[address.port][str(address)] = _places(address, answers)

    def deserted(self, listeners: Sequence[Listener]) -> list[Listener]:
        """The listeners that are at no place of the configuration any more.

        A listener stays as long as one name of its port has not been answered in full: nobody knows
        whose it is.  A Unix socket whose path has gone stays until another has the path.
        """
        return [
            each for each in listeners if not each.passed and self._is_deserted(each, listeners)
        ]

    @staticmethod
    def last_at(path: str, listeners: Sequence[Listener]) -> Listener | None:
        """The listener that was bound last to the path of a Unix socket."""
        real = real_path(path)
        for each in reversed(listeners):
            name = each.sock.getsockname()
            if isinstance(name, str) and real_path(name) == real:
                return each
        return None

    def leave(self, listener: Listener) -> None:
        """Note that there is no listener any more."""
        self._present.discard(place(listener.sock.getsockname()))

    def _is_deserted(self, listener: Listener, listeners: Sequence[Listener]) -> bool:
        name = listener.sock.getsockname()
        if isinstance(name, str):
            return listener.has_lost_path() and listener is not self.last_at(name, listeners)
        found = self._moving.get(name[1], {}).values()
        wanted: set[str] = set()
        for each in found:
            if each is None:
                return False
            wanted |= each
        return bool(found) and place(name) not in wanted | self._fixed


def why_deserted(listener: Listener) -> str:
    """The reason for the log."""
    name = listener.sock.getsockname()
    if isinstance(name, str):
        return "its path leads elsewhere"
    if place(name) != format_address(name):
        return "its interface has gone"
    return "no name of the configuration has this address any more"


def place(name: object) -> str:
    """The text for a socket address, with the number of the interface that it belongs to."""
    text = format_address(name)
    return f"{text}%{name[3]}" if isinstance(name, tuple) and len(name) > 3 and name[3] else text


def _places(address: Address, answers: SockAddrs) -> frozenset[str]:
    return frozenset(_place_of(address, name) for _, name in answers)


def _place_of(address: Address, name: tuple[object, ...]) -> str:
    return place((name[0], address.port, *name[2:]))
