from types import SimpleNamespace

from strangers.apps.scripts import Site


class Handler(Site):
    server = SimpleNamespace(server_name="localhost", server_port=80)
