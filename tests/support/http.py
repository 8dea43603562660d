"""HTTP by h11, a library without I/O, as a stream handler: ``--handler support.http:Http``."""

from __future__ import annotations

from typing import Any

import h11

from graced import StreamProtocol


class Http(StreamProtocol):
    """Answers each request with its method, target and body."""

    transport: Any

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.connection = h11.Connection(h11.SERVER)
        self.answer = b""

    def data_received(self, data: bytes) -> None:
        self.connection.receive_data(data)
        while True:
            event = self.connection.next_event()
            if isinstance(event, h11.Request):
                self.answer = event.method + b" " + event.target + b" "
            elif isinstance(event, h11.Data):
                self.answer += event.data
            elif isinstance(event, h11.EndOfMessage):
                self._respond()
            else:
                return

    def _respond(self) -> None:
        headers = [("Content-Length", str(len(self.answer)))]
        for event in (
            h11.Response(status_code=200, headers=headers),
            h11.Data(data=self.answer),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.connection.send(event) or b"")
        if self.connection.our_state is h11.MUST_CLOSE:
            self.transport.close()
        else:
            self.connection.start_next_cycle()
