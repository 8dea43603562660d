"""The requests that each thread handles."""

from __future__ import annotations

import threading
from contextlib import contextmanager

from graced.handlers.handler_socket import HandlerSocket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any


class Handling(threading.local):
    """The requests that the current thread handles."""

    requests = 0
    """Their number; the handler of a request may handle another request."""

    @contextmanager
    def of(self, request: Any) -> Iterator[None]:
        """Note that the current thread handles the request."""
        if isinstance(request, HandlerSocket):
            request.thread = threading.current_thread()
        self.requests += 1
        try:
            yield
        finally:
            self.requests -= 1
