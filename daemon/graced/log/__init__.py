"""What is logged, and where to."""
