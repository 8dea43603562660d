"""A handler on an asyncio loop, in a module that does not import asyncio."""

from __future__ import annotations

from typing import Any


async def handle(_reader: Any, _writer: Any) -> None:
    return
