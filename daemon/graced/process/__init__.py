"""One daemon process: its fork, its pidfile, its signals and its life."""
