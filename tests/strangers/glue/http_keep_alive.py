from strangers.apps.site import KeepAliveSite as Handler  # noqa: F401
