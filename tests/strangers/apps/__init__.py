"""What a user of each stranger writes: a service that knows nothing of graced.

``quick`` answers at once, ``slow`` when the gate is open, ``paused`` begins its answer and goes on
when the gate is open, ``big`` answers with `BIG`, ``upload`` with the checksum of what it received.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from strangers import gate

_BLOCK = hashlib.shake_256(b"block").digest(99_992)
BLOCKS, MODERATE = 500, 120
"""50 MB, and 12 MB: both more than the buffers of a connection."""
QUICK = b"the quick answer\n"


def big(blocks: int = BLOCKS) -> Iterator[bytes]:
    """Blocks of 100,000 bytes, each of which begins with its number: no byte can move unseen."""
    for number in range(blocks):
        yield b"%08d" % number + _BLOCK


def paused() -> Iterator[bytes]:
    yield QUICK
    gate.wait()
    yield QUICK


def checksum(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
