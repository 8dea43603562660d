"""One I/O thread: acceptors, clients, timers and the farewell."""
