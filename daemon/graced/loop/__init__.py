"""The loop of one I/O thread: acceptors, clients, timers and the farewell."""
