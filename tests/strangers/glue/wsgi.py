from types import SimpleNamespace
from wsgiref.simple_server import WSGIRequestHandler

from strangers.apps.wsgi import application


class Handler(WSGIRequestHandler):
    server = SimpleNamespace(base_environ={}, get_app=lambda: application)
