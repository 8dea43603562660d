"""A daemon process: fork, pidfile, limits, states, watchdog."""
