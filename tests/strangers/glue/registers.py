from types import SimpleNamespace

from umodbus.server.tcp import RequestHandler, get_server

from strangers.apps.registers import add_routes


class Handler(RequestHandler):
    server = add_routes(get_server(lambda *_: SimpleNamespace(), None, None))
