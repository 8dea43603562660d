"""Blocking handlers: the registry of names, the socket of a handler, the pool of threads."""
