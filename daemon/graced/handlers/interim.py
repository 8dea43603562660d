"""Interim answers: the server has spoken, and the client is in the middle of its request.

``100 Continue`` of HTTP looks like any answer to the kernel, and a client with a long way sends its
body much later than `farewell_gap`.  Handlers of `http.server` show where they are: the frame of
``handle_one_request`` has the method that handles the request, and the handler the header.
"""

from __future__ import annotations

import sys

from graced.frames import current_frames

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import FrameType
    from typing import Any


def awaits_body(threads: Iterable[int]) -> bool:
    """Whether one of these threads handles a request of HTTP that asked to be continued.

    `threads`: as from `threading.get_ident`.
    """
    # Not imported: most handlers are of other protocols.
    http = sys.modules.get("http.server")
    if http is None:
        return False
    code = http.BaseHTTPRequestHandler.handle_one_request.__code__
    frames = current_frames()
    return any(_awaits_body(frames.get(thread), code) for thread in threads)


def _awaits_body(frame: FrameType | None, code: Any) -> bool:
    while frame and frame.f_code is not code:
        frame = frame.f_back
    # Between two requests there is no method yet.
    if frame is None or "method" not in frame.f_locals:
        return False
    headers = getattr(frame.f_locals.get("self"), "headers", None)
    expected = headers.get("Expect", "") if headers else ""
    return bool(expected.strip().lower() == "100-continue")
