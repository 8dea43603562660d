"""The control socket: what an operator's program can ask of a running service, and order it."""
