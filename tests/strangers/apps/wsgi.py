"""A WSGI application without a framework."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from strangers import gate
from strangers.apps import MODERATE, QUICK, big, checksum, paused


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    path = environ["PATH_INFO"]
    start_response("200 OK", [("Content-Type", "application/octet-stream")])
    if path == "/big":
        return big(MODERATE)
    if path == "/paused":
        return paused()
    if path == "/upload":
        body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
        return [checksum(body).encode()]
    if path == "/slow":
        gate.wait()
    return [QUICK]
