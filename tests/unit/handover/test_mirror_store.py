"""The bundles of a mirror in the store: at no moment without the last one that is complete."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from graced.handover.mirror_store import MirrorStore
from graced.systemd.notify import Notifier
from support import fill_queue


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.setblocking(False)
        yield manager


@pytest.fixture
def notifier(
    tmp_path: Path, manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Notifier]:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    notifier = Notifier()
    yield notifier
    notifier.close()


@pytest.fixture
def bundle() -> Iterator[socket.socket]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours


def said(manager: socket.socket) -> list[str]:
    found = []
    with suppress(BlockingIOError):
        while True:
            verb, name, *_ = manager.recv(1000).decode().splitlines()
            found.append(f"{verb.removesuffix('=1')} {name.removeprefix('FDNAME=')}")
    return found


def test_last_bundle_is_removed_when_the_next_is_stored(
    notifier: Notifier, manager: socket.socket, bundle: socket.socket
) -> None:
    store = MirrorStore(notifier, ["graced-listeners"])
    for _ in range(3):
        store.replace(bundle)
    assert said(manager) == [
        "FDSTORE graced-kept",
        "FDSTORE graced-kept-2",
        "FDSTOREREMOVE graced-kept",
        "FDSTORE graced-kept-3",
        "FDSTOREREMOVE graced-kept-2",
    ]


def test_bundles_of_the_last_process_are_removed_last(
    notifier: Notifier, manager: socket.socket, bundle: socket.socket
) -> None:
    """It was killed between two messages."""
    store = MirrorStore(notifier, ["graced-kept-8", "graced-clients", "graced-kept-9"])
    store.replace(bundle)
    assert said(manager) == [
        "FDSTORE graced-kept-10",
        "FDSTOREREMOVE graced-kept-8",
        "FDSTOREREMOVE graced-kept-9",
    ]


def test_bundle_stays_while_the_next_one_waits(
    notifier: Notifier, manager: socket.socket, bundle: socket.socket, tmp_path: Path
) -> None:
    """The service manager does not read; what waits is one bundle and one name."""
    store = MirrorStore(notifier, [])
    store.replace(bundle)
    assert said(manager) == ["FDSTORE graced-kept"]
    fill_queue(str(tmp_path / "notify"), b"x\ny")
    for _ in range(5):
        store.replace(bundle)
    said(manager)
    assert notifier.flush(0.0)
    assert said(manager) == ["FDSTORE graced-kept-6", "FDSTOREREMOVE graced-kept"]
    store.replace(bundle)
    assert said(manager) == ["FDSTORE graced-kept-7", "FDSTOREREMOVE graced-kept-6"]


def test_all_bundles_are_released(
    notifier: Notifier,
    manager: socket.socket,
    bundle: socket.socket,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(notifier, "barrier", lambda: None)
    store = MirrorStore(notifier, ["graced-kept"])
    store.replace(bundle)
    said(manager)
    store.release()
    assert "FDSTOREREMOVE graced-kept-2" in said(manager)
