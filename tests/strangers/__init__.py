"""Servers and handlers that nobody here wrote, with their own clients, and graced's goodbye.

Each *stranger* is a protocol with a server from the standard library or from PyPI and the client
that its users have.  `apps` has what a user of the stranger writes, `glue` the module of at most
ten lines that makes a handler of graced of it, `program` the same as a program with
`GracefulTCPServer`, `clients` the clients.  The tests let the client talk to the server through a
recorder, replay pieces of the record while the server stops or restarts, and compare every byte.
"""
