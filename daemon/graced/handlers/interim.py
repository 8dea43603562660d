"""Interim answers: the server has spoken, and the client is in the middle of its request.

``100 Continue`` of HTTP looks like any answer to the kernel, and a client with a long way sends its
body much later than `farewell_gap`.  Handlers of `http.server` show where they are: the frame of
``handle_one_request`` has the method that handles the request, and the handler the header.  A
script of ``CGIHTTPRequestHandler`` reads the body after the head of the answer has been sent.
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
    """Whether one of these threads handles a request of HTTP whose body may be under way.

    The request asked to be continued, or a script has it.  `threads`: as from
    `threading.get_ident`.
    """
    # Not imported: most handlers are of other protocols.
    http = sys.modules.get("http.server")
    if http is None:
        return False
    method = http.BaseHTTPRequestHandler.handle_one_request.__code__
    # Python 3.15 has no scripts.
    scripts = getattr(http, "CGIHTTPRequestHandler", None)
    script = scripts.run_cgi.__code__ if scripts else None
    frames = current_frames()
    return any(_awaits_body(frames.get(thread), method, script) for thread in threads)


def _awaits_body(frame: FrameType | None, method: Any, script: Any) -> bool:
    while frame and frame.f_code is not method:
        if frame.f_code is script:
            return True
        frame = frame.f_back
    # Between two requests there is no method yet.
    if frame is None or "method" not in frame.f_locals:
        return False
    headers = getattr(frame.f_locals.get("self"), "headers", None)
    expected = headers.get("Expect", "") if headers else ""
    return bool(expected.strip().lower() == "100-continue")
