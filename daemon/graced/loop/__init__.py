"""The loop of an I/O thread: acceptors, clients, timers and the farewell."""
