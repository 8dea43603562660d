"""Sockets before there are clients: addresses, listeners, and how a connection ends."""
