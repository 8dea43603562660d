from umodbus.route import Map
from umodbus.server import route
from umodbus.server.tcp import RequestHandler

from strangers.apps.registers import add_routes


class Handler(RequestHandler):
    route_map, route = Map(), classmethod(route)

    def setup(self) -> None:
        self.server = self


add_routes(Handler)
