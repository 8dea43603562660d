from types import SimpleNamespace

from dnslib.server import DNSHandler, DNSLogger

from strangers.apps.names import Resolver


class Handler(DNSHandler):
    def setup(self) -> None:
        known = {"resolver": Resolver(), "logger": DNSLogger()}
        self.server = SimpleNamespace(socket_type=self.request.type, **known)
