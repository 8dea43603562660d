from strangers.apps.site import BufferedSite as Handler  # noqa: F401
