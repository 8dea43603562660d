"""The event loop: acceptors, clients, timers and the farewell."""
