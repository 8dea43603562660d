"""The log: events, and the sinks that records are written to."""
