from xmlrpc import server

from strangers.apps.procedures import register


class Handler(server.DocXMLRPCRequestHandler):
    server = type("", (server.SimpleXMLRPCDispatcher, server.XMLRPCDocGenerator), {})()
    server.__dict__.update(vars(server.__class__.__bases__[1]()), logRequests=True)
    register(server)
