"""A running server, driven from outside: what it promises, point by point."""
