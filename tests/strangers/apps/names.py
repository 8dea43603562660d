"""A resolver for dnslib."""

from __future__ import annotations

from typing import Any

from dnslib import QTYPE, RR, TXT
from dnslib.server import BaseResolver

from strangers import gate
from strangers.apps import QUICK

TEXTS = 200


class Resolver(BaseResolver):
    """Knows ``quick.test``, ``slow.test`` and ``big.test``."""

    def resolve(self, request: Any, _handler: Any) -> Any:
        reply = request.reply()
        name = str(request.q.qname)
        if name.startswith("slow"):
            gate.wait()
        for number in range(TEXTS if name.startswith("big") else 1):
            text = TXT(QUICK * 10 + b"%d" % number)
            reply.add_answer(RR(request.q.qname, QTYPE.TXT, rdata=text))
        return reply
