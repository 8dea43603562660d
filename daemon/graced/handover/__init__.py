"""Clients and listeners pass from one process to the next."""
