from xmlrpc.server import SimpleXMLRPCDispatcher, SimpleXMLRPCRequestHandler

from strangers.apps.procedures import register


class Handler(SimpleXMLRPCRequestHandler):
    server = register(SimpleXMLRPCDispatcher())
    server.logRequests = True
