"""The log: events, records, sinks."""
