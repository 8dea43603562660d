"""The two log records of a connection: of its beginning and of its end.

A probe is a connection that ends without a byte in either direction, as the health checks of load
balancers make them, every two seconds.  With `log_probes` on, probes are logged like other
connections.  With `log_probes` off a connection is logged at its first byte, and a probe is only
counted.
"""

from __future__ import annotations

from graced.log import events
from graced.loop.phase import NOT_TOLD

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.loop.client import Client
    from graced.loop.policy import Policy


DEADLINE = "deadline"
"""The reason in the log for a client that was closed at the deadline."""


class ConnectionLog:
    """Any thread that owns a client may call."""

    def __init__(self, policy: Policy) -> None:
        self._logs = policy.log_connections
        self._waits = policy.log_connections and not policy.log_probes

    def begin(self, client: Client, *, greets: bool = False) -> None:
        """Log a new client, or wait for its first byte.  `greets`: its handler speaks first."""
        if self._waits and not greets:
            client.unheard = True
        elif self._logs:
            events.CONNECTED(client=client)

    def go_on(self, client: Client) -> None:
        """Wait for the first byte of a client that another process has accepted, and not heard."""
        client.unheard = client.unheard and self._waits

    def hear(self, client: Client) -> None:
        """Log a client of which the first byte has come."""
        if client.unheard:
            client.unheard = False
            events.CONNECTED(client=client)

    def end(self, client: Client, reason: str, now: float) -> None:
        """Log the end of a client at the monotonic time `now`."""
        if self._logs and not is_probe(client):
            # The first byte was that of the farewell.
            self.hear(client)
            events.CLOSED(
                client=client, reason=reason, bytes=client.echoed, seconds=now - client.since
            )


def is_probe(client: Client) -> bool:
    """Whether a client has gone without a byte in either direction."""
    return client.unheard and not client.echoed and client.told == NOT_TOLD
