"""Procedures for XML-RPC and JSON-RPC."""

from __future__ import annotations

from typing import Any

from strangers import gate
from strangers.apps import MODERATE, QUICK, checksum
from strangers.apps import big as blocks


def quick() -> str:
    return QUICK.decode()


def slow() -> str:
    gate.wait()
    return QUICK.decode()


def big() -> str:
    return b"".join(blocks(MODERATE // 2)).hex()


def upload(text: str) -> str:
    return checksum(text.encode())


def register(dispatcher: Any) -> Any:
    """Make the procedures known to a dispatcher of either kind, and return the dispatcher."""
    for function in (quick, slow, big, upload):
        dispatcher.register_function(function)
    return dispatcher
