"""gracectl(1)."""
