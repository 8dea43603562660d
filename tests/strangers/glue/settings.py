from logging.config import listen
from threading import Event
from types import SimpleNamespace


class Handler(listen(0).hdlr):
    server = SimpleNamespace(verify=None, ready=Event())
