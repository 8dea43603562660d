"""From one process to the next."""
