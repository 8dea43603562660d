from xmlrpc.server import SimpleXMLRPCDispatcher, SimpleXMLRPCRequestHandler

from strangers.apps.procedures import register

dispatcher = register(SimpleXMLRPCDispatcher())
dispatcher.logRequests = True


class Handler(SimpleXMLRPCRequestHandler):
    def setup(self) -> None:
        super().setup()
        self.server = dispatcher
