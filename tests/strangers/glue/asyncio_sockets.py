from websockets.asyncio.server import ServerConnection
from websockets.server import ServerProtocol

from strangers.apps import talk


class Handler(ServerConnection):
    farewell = talk.farewell

    def __init__(self) -> None:
        super().__init__(ServerProtocol(), talk.SERVER)
