"""The rate of new clients, altogether and by host: token buckets.

A bucket is the time at which it will be full, no more (the "generic cell rate algorithm"): each
client moves that time on by the seconds in which one token comes, and a client for which it would
be more than the time of a whole bucket ahead is refused.
"""

from __future__ import annotations

from collections import OrderedDict
from socket import AF_INET6, inet_ntop, inet_pton
from time import monotonic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

BURST = 1.0
"""Seconds of the rate that a full bucket has: with ten a second, ten at once."""
MAX_HOSTS = 4096
"""Hosts whose buckets are remembered.  Bounds the memory: 0.8 MiB when all are."""


class NewClients:
    """The limits of new clients in a second.  One thread at a time, see `Admission`."""

    def __init__(
        self, per_second: int, per_host: int, clock: Callable[[], float] = monotonic
    ) -> None:
        """`per_second`: of all hosts, `per_host`: of each; 0 sets no limit.  `clock`: seconds."""
        self._per_second = per_second
        self._per_host = per_host
        self._clock = clock
        self._full_at = clock()
        self._hosts: OrderedDict[str, float] = OrderedDict()
        """When the buckets will be full, the one that has given a token last at the end."""

    def take(self, host: str) -> str:
        """Take a token of each bucket and return an empty string; or return the limit reached.

        A client that is refused takes no token: one host that tries too often cannot use up the
        tokens of all.  All Unix clients come from this machine, usually from one proxy, so the
        limit by host does not hold for them.
        """
        now = self._clock()
        full_at = max(self._full_at, now)
        if self._per_second:
            full_at += 1 / self._per_second
            if full_at > now + BURST + _ROUNDING:
                return f"max_new_per_second = {self._per_second} reached"
        if self._per_host and not host.startswith("unix:"):
            key = network_of(host)
            host_full_at = max(self._hosts.get(key, now), now) + 1 / self._per_host
            if host_full_at > now + BURST + _ROUNDING:
                return f"max_new_per_second_per_host = {self._per_host} reached"
            self._remember(key, host_full_at, now)
        self._full_at = full_at
        return ""

    def _remember(self, key: str, full_at: float, now: float) -> None:
        hosts = self._hosts
        hosts[key] = full_at
        hosts.move_to_end(key)
        # A bucket that is full is like no bucket.  Two for each client: there are soon no more.
        for _ in range(2):
            first = next(iter(hosts))
            if hosts[first] > now and len(hosts) <= MAX_HOSTS:
                return
            del hosts[first]

    @property
    def hosts(self) -> int:
        """The number of hosts that are remembered."""
        return len(self._hosts)


def network_of(host: str) -> str:
    """The host for the limit: of IPv6 the network of 64 bits, whose addresses are its to choose."""
    if ":" not in host:
        return host
    prefix = inet_pton(AF_INET6, host.partition("%")[0])[:_NETWORK]
    return inet_ntop(AF_INET6, prefix.ljust(16, b"\0"))


_NETWORK = 8
"""Bytes of the part of an IPv6 address that is not the host's to choose (RFC 4291, 2.5.1)."""
_ROUNDING = 1e-9
"""Seconds.  A hundredth, a hundred times, is a little more than one."""
