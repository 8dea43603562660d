"""A mailbox for aiosmtpd."""

from __future__ import annotations

import asyncio
from typing import Any

from strangers import gate


class Mailbox:
    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:
        if b"slow" in envelope.content:
            await asyncio.to_thread(gate.wait)
        return f"250 {len(envelope.content)} bytes for {', '.join(envelope.rcpt_tos)}"
