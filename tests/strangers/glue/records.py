from strangers.apps.records import LogRecordStreamHandler as Handler  # noqa: F401
