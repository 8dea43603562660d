from pymodbus.server import ModbusTcpServer
from pymodbus.server.requesthandler import ServerRequestHandler

from strangers.apps.devices import DEVICE


class Handler(ServerRequestHandler):
    @classmethod
    def startup(cls, _server: object) -> None:
        cls.owner = ModbusTcpServer(DEVICE)

    def __init__(self) -> None:
        super().__init__(self.owner, None, None, None)
