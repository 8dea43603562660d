"""Handlers that block: how one is found, the socket it gets, the threads it runs in."""
