from jsonrpclib.SimpleJSONRPCServer import SimpleJSONRPCDispatcher, SimpleJSONRPCRequestHandler

from strangers.apps.procedures import register

dispatcher = register(SimpleJSONRPCDispatcher())
dispatcher.logRequests = True


class Handler(SimpleJSONRPCRequestHandler):
    def setup(self) -> None:
        super().setup()
        self.server = dispatcher
