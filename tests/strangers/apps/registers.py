"""Registers for uModbus."""

from __future__ import annotations

from typing import Any

from strangers import gate

SLOW, REGISTERS = 1000, 100


def add_routes(server: Any) -> Any:
    """Serve registers 0 to 99, and from 1000 on registers whose reading takes time."""

    def read(slave_id: int, function_code: int, address: int) -> int:
        if address == SLOW:
            gate.wait()
        return slave_id + address

    addresses = [*range(REGISTERS), *range(SLOW, SLOW + REGISTERS)]
    server.route(slave_ids=[1], function_codes=[3, 4], addresses=addresses)(read)
    return server
