"""The base class of stream handlers."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.loop.transport import Transport


class StreamProtocol:
    """A handler with the callbacks of `asyncio.Protocol`, which run on the I/O thread.

    The callbacks must not wait: all other clients would wait too.  A subclass with the methods
    `get_buffer` and `buffer_updated` is called as an `asyncio.BufferedProtocol`.

    The class may have the attribute or method `farewell`, and the methods `save` and `restore`, as
    docs/handlers.md describes.
    """

    __slots__ = ()

    def connection_made(self, transport: Transport) -> None:
        """Begin to serve a client."""

    def data_received(self, data: bytes) -> None:
        """Take input of the client."""

    def eof_received(self) -> bool | None:
        """Take the end of the input; True if the handler still writes."""

    def connection_lost(self, exc: BaseException | None) -> None:
        """Take the end of the connection; `exc`: why, unless client or handler has closed it."""

    def pause_writing(self) -> None:
        """Write nothing more for now.  As it is here: the client is not read until it takes bytes.

        A class with a `pause_writing` of its own decides itself what happens to the input.
        """

    def resume_writing(self) -> None:
        """Write again."""
