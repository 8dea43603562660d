"""A program with `GracefulTCPServer`, as each stranger's users would write it: ``program NAME``."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from typing import Any

from graced import GracefulTCPServer

HOST, ANY = ADDRESS = ("127.0.0.1", int(os.environ.get("STRANGERS_PORT", "0")))


class Graceful(GracefulTCPServer):
    grace_period = float(os.environ["STRANGERS_GRACE"])


def http() -> Graceful:
    from http.server import HTTPServer

    from strangers.apps.site import Site

    class Server(Graceful, HTTPServer):
        pass

    return Server(ADDRESS, Site)


def http_keep_alive() -> Graceful:
    from strangers.apps.site import KeepAliveSite

    return Graceful(ADDRESS, KeepAliveSite)


def http_buffered() -> Graceful:
    from strangers.apps.site import BufferedSite

    return Graceful(ADDRESS, BufferedSite)


def cgi() -> Graceful:
    from http.server import HTTPServer

    from strangers.apps.scripts import Site

    class Server(Graceful, HTTPServer):
        pass

    return Server(ADDRESS, Site)


def wsgi() -> Graceful:
    from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

    from strangers.apps.wsgi import application

    class Server(Graceful, WSGIServer):
        pass

    server = Server(ADDRESS, WSGIRequestHandler)
    server.set_app(application)
    return server


def flask() -> Graceful:
    from werkzeug.serving import ThreadedWSGIServer

    from strangers.apps.flask_site import app

    class Server(Graceful, ThreadedWSGIServer):
        pass

    return Server(*ADDRESS, app)


def xmlrpc() -> Graceful:
    from xmlrpc.server import SimpleXMLRPCServer

    from strangers.apps.procedures import register

    class Server(Graceful, SimpleXMLRPCServer):
        pass

    server: Server = register(Server(ADDRESS))
    return server


def documented() -> Graceful:
    from xmlrpc.server import DocXMLRPCServer

    from strangers.apps.procedures import register

    class Server(Graceful, DocXMLRPCServer):
        pass

    server: Server = register(Server(ADDRESS))
    return server


def connections() -> Graceful:
    from strangers.apps.connections import Conversation

    return Graceful(ADDRESS, Conversation)


def jsonrpc() -> Graceful:
    from jsonrpclib.SimpleJSONRPCServer import SimpleJSONRPCServer

    from strangers.apps.procedures import register

    class Server(Graceful, SimpleJSONRPCServer):
        pass

    server: Server = register(Server(ADDRESS))
    return server


def jsonrpc_pooled() -> Graceful:
    from jsonrpclib.SimpleJSONRPCServer import PooledJSONRPCServer

    from strangers.apps.procedures import register

    class Server(Graceful, PooledJSONRPCServer):
        process_request = PooledJSONRPCServer.process_request

    server: Server = register(Server(ADDRESS))
    return server


def names() -> Graceful:
    from dnslib.server import DNSServer, TCPServer

    from strangers.apps.names import Resolver

    class Server(Graceful, TCPServer):
        pass

    server: Server = DNSServer(Resolver(), *ADDRESS, tcp=True, server=Server).server
    return server


def registers() -> Graceful:
    from umodbus.server.tcp import RequestHandler, get_server

    from strangers.apps.registers import add_routes

    server: Graceful = add_routes(get_server(Graceful, ADDRESS, RequestHandler))
    return server


def images() -> Graceful:
    from pynetdicom.transport import ThreadedAssociationServer

    from strangers.apps.images import ARCHIVE, entity

    class Server(Graceful, ThreadedAssociationServer):
        pass

    server = Server(address=ADDRESS, **ARCHIVE)
    entity._servers.append(server)
    return server


def records() -> Graceful:
    from strangers.apps.records import LogRecordSocketReceiver

    class Server(Graceful, LogRecordSocketReceiver):
        pass

    return Server(*ADDRESS)


def settings() -> Graceful:
    from logging.config import listen

    # A thread that is never started: its server is made by graced.
    listener: Any = listen(0)
    server = Graceful(ADDRESS, listener.hdlr)
    vars(server).update(verify=None, ready=listener.ready)
    return server


PROGRAMS: dict[str, Callable[[], Any]] = {
    each.__name__: each
    for each in (
        http,
        http_keep_alive,
        http_buffered,
        cgi,
        wsgi,
        flask,
        xmlrpc,
        documented,
        connections,
        jsonrpc,
        jsonrpc_pooled,
        names,
        registers,
        images,
        records,
        settings,
    )
}


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    with PROGRAMS[sys.argv[1]]() as server:
        host, port = server.server_address[:2]
        print(f"serving on {host}:{port} with pid {os.getpid()}", flush=True)
        server.serve_until_stopped()


if __name__ == "__main__":
    main()
