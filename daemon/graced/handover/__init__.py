"""The handover of clients and listeners to the next process of the service."""
