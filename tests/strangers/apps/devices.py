"""Registers for pymodbus."""

from __future__ import annotations

import asyncio
from typing import Any

from pymodbus.simulator import DataType, SimData, SimDevice

from strangers import gate

SLOW, REGISTERS = 1000, 100


async def _act(_function: int, _start: int, address: int, *_rest: Any) -> None:
    if address == SLOW:
        await asyncio.to_thread(gate.wait)


DEVICE = SimDevice(
    id=1,
    simdata=[
        SimData(0, values=[*range(REGISTERS)], datatype=DataType.REGISTERS),
        SimData(SLOW, values=[*range(REGISTERS)], datatype=DataType.REGISTERS),
    ],
    action=_act,
)
