"""From the command line over the settings to the running service."""
