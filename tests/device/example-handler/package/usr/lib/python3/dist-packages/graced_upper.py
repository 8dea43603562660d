"""A handler for graced: answers each line with its upper case."""

import socketserver


class UpperHandler(socketserver.StreamRequestHandler):
    """Nothing in here knows graced, which runs what `socketserver` would."""

    def handle(self) -> None:
        for line in self.rfile:
            self.wfile.write(line.upper())
