from types import SimpleNamespace

from dnslib.server import DNSHandler, DNSLogger

from strangers.apps.names import Resolver


class Handler(DNSHandler):
    server = SimpleNamespace(resolver=Resolver(), logger=DNSLogger())
