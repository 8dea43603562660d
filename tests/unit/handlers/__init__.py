"""The kinds of handlers."""
