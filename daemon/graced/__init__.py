"""graced: a threaded TCP server that says goodbye properly.

The program is graced(8); `graced.main` is its command line.  For use as a library there are
`GracefulTCPServer` and `GracefulUnixStreamServer`, drop-in replacements for their namesakes in
`socketserver`.
"""

from graced.tcpserver import GracefulTCPServer, GracefulUnixStreamServer

__all__ = ["GracefulTCPServer", "GracefulUnixStreamServer", "__version__"]

__version__ = "0.1.0"
