"""Modules for ``--handler``, each of at most ten lines."""
