from strangers.apps.connections import Conversation as Handler  # noqa: F401
