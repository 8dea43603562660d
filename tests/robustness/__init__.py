"""What graced does when clients, local users, the kernel, the log and the clock misbehave.

How much of it is tried depends on GRACED_FULL, see conftest.py.
"""
