"""The reload: an old and a new process side by side, between which clients move."""
