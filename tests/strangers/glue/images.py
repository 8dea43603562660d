from pynetdicom.transport import AssociationServer, RequestHandler

from strangers.apps.images import ARCHIVE


class Unbound(AssociationServer):
    server_bind = server_activate = AssociationServer.server_close


class Handler(RequestHandler):
    def handle(self) -> None:
        self.server = Unbound(address=self.request.getsockname(), **ARCHIVE)
        (association := self._create_association()).start()
        association.join()
