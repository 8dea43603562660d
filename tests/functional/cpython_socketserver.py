"""CPython's own tests of socketserver with graced's classes in place of its threading ones.

A program, since it replaces them for the whole process.  Needs `test.test_socketserver` (of
Debian's libpython3-testsuite).
"""

from __future__ import annotations

import socketserver
import sys
import unittest

import graced

CASES = (
    "SocketServerTest.test_TCPServer",
    "SocketServerTest.test_ThreadingTCPServer",
    "SocketServerTest.test_UnixStreamServer",
    "SocketServerTest.test_ThreadingUnixStreamServer",
    "SocketServerTest.test_shutdown",
    "SocketServerTest.test_close_immediately",
    "SocketServerTest.test_tcpserver_bind_leak",
    "SocketServerTest.test_context_manager",
    "ErrorHandlerTest.test_threading_handled",
    "ErrorHandlerTest.test_threading_not_handled",
    "MiscTestCase.test_shutdown_request_called_if_verify_request_false",
    "MiscTestCase.test_threads_reaped",
)
"""Those that have to do with threading servers of streams."""


class NoMixIn:
    """In place of ThreadingMixIn: what it is mixed into is threading already."""


def main() -> None:
    """Run the cases; the exit status says how that went."""
    socketserver.TCPServer = graced.GracefulTCPServer  # type: ignore[misc]
    socketserver.ThreadingTCPServer = graced.GracefulTCPServer  # type: ignore[misc]
    socketserver.UnixStreamServer = graced.GracefulUnixStreamServer  # type: ignore[misc, assignment]
    socketserver.ThreadingUnixStreamServer = graced.GracefulUnixStreamServer  # type: ignore[misc, assignment]
    socketserver.ThreadingMixIn = NoMixIn  # type: ignore[misc, assignment]
    names = [f"test.test_socketserver.{case}" for case in CASES]
    suite = unittest.defaultTestLoader.loadTestsFromNames(names)
    result = unittest.TextTestRunner(verbosity=2).run(suite)
    sys.exit(not result.wasSuccessful() or result.testsRun != len(CASES) or bool(result.skipped))


if __name__ == "__main__":
    main()
