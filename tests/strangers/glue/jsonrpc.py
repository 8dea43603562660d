from jsonrpclib.SimpleJSONRPCServer import SimpleJSONRPCDispatcher, SimpleJSONRPCRequestHandler

from strangers.apps.procedures import register


class Handler(SimpleJSONRPCRequestHandler):
    server = register(SimpleJSONRPCDispatcher())
    server.logRequests = True
