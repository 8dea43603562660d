from strangers.apps.site import Site as Handler  # noqa: F401
