from pynetdicom.transport import AssociationServer, RequestHandler

from strangers.apps.images import ARCHIVE


class Unbound(AssociationServer):
    server_bind = server_activate = AssociationServer.server_close


class Handler(RequestHandler):
    server = Unbound(address=("localhost", 104), **ARCHIVE)

    def handle(self) -> None:
        (association := self._create_association()).start()
        association.join()
