"""Which hosts may connect."""

from __future__ import annotations

import pytest

from graced.loop.access import Access
from graced.sockets.networks import Network


def access(allow: str = "", deny: str = "") -> Access:
    return Access(
        [Network.parse(text) for text in allow.split()],
        [Network.parse(text) for text in deny.split()],
        tells=True,
    )


ALLOWED = ""
UNLISTED = "access.allow has no network of the client"


@pytest.mark.parametrize(
    ("allow", "deny", "host", "reason"),
    [
        ("", "", "192.0.2.7", ALLOWED),
        ("", "192.0.2.0/24", "192.0.2.7", "access.deny has 192.0.2.0/24"),
        ("", "192.0.2.0/24", "192.0.3.7", ALLOWED),
        ("192.0.2.0/24", "", "192.0.2.7", ALLOWED),
        ("192.0.2.0/24", "", "192.0.3.7", UNLISTED),
        ("192.0.2.0/24", "", "::1", UNLISTED),
        ("192.0.2.7", "192.0.2.0/24", "192.0.2.7", ALLOWED),
        ("192.0.2.7", "192.0.2.0/24", "192.0.2.8", "access.deny has 192.0.2.0/24"),
        ("192.0.2.0/24", "192.0.2.7", "192.0.2.7", "access.deny has 192.0.2.7"),
        ("192.0.2.7", "0.0.0.0/0", "192.0.2.8", "access.deny has 0.0.0.0/0"),
        ("192.0.2.7", "0.0.0.0/0", "::1", UNLISTED),
        ("192.0.2.0/24", "::/0", "unix:/run/s", ALLOWED),
        ("10.0.0.0/8", "10.9.0.0/16 10.9.9.9", "10.9.9.9", "access.deny has 10.9.9.9"),
        ("10.0.0.0/8 10.9.9.0/24", "10.9.0.0/16", "10.9.9.9", ALLOWED),
    ],
)
def test_most_specific_rule_decides(allow: str, deny: str, host: str, reason: str) -> None:
    assert access(allow, deny).denial(host) == reason
