from types import SimpleNamespace

from werkzeug.serving import WSGIRequestHandler

from strangers.apps.flask_site import app

SAID = {"app": app, "ssl_context": None, "multithread": True, "multiprocess": False}
SERVER = SimpleNamespace(**SAID, server_address=("localhost", 80), _server_version="Werkzeug")


class Handler(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"
    server = SERVER
