"""Files that are left open at the end; functional/test_foreign_code.py has the end itself."""

from __future__ import annotations

import bz2
import gc
import gzip
import io
import lzma
import shelve
import socket
import sys
import tempfile
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from graced.app import open_files
from graced.log import events

WORDS = b"last words"


def left_open(monkeypatch: pytest.MonkeyPatch, *files: Any) -> None:
    """Complete these files: none of the tests' own."""
    monkeypatch.setattr(gc, "get_objects", lambda: list(files))
    open_files.complete()


@pytest.mark.parametrize("opened", [gzip.open, bz2.open, lzma.open])
@pytest.mark.parametrize("mode", ["wb", "wt"])
def test_compressed_file_is_whole(
    opened: Callable[..., Any], mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    file = opened(path, mode)
    file.write(WORDS if mode == "wb" else WORDS.decode())
    inner = getattr(file, "buffer", file)
    for files in ([file, inner], [inner, file]):
        left_open(monkeypatch, *files)
    assert opened(path, "rb").read() == WORDS


@pytest.mark.parametrize("order", [1, -1])
def test_outer_file_is_completed_first(
    order: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    plain = path.open("wb")
    inner = lzma.LZMAFile(plain, "wb")  # noqa: SIM115
    outer = gzip.GzipFile(fileobj=inner, mode="wb")
    text = io.TextIOWrapper(outer)
    text.write(WORDS.decode())
    left_open(monkeypatch, *[plain, inner, outer, text][::order])
    assert gzip.decompress(lzma.decompress(path.read_bytes())) == WORDS
    plain.close()


def test_files_of_a_ring_are_completed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    class Linked(io.BytesIO):
        other: Any = None
        closes = 0

        def close(self) -> None:
            self.closes += 1
            super().close()

    one, two = Linked(), Linked()
    one.other, two.other = two, one
    left_open(monkeypatch, one, two)
    assert (one.closes, two.closes) == (1, 1)


def test_destructors_of_python_complete_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = zipfile.ZipFile(tmp_path / "archive", "w")
    archive.writestr("name", WORDS)
    shelf: shelve.Shelf[Any] = shelve.open(str(tmp_path / "shelf"), writeback=True)  # noqa: SIM115
    shelf["list"] = []
    shelf["list"].append(1)
    temporary = tempfile.NamedTemporaryFile(dir=tmp_path)  # noqa: SIM115
    removed = Path(temporary.name)
    files = [each for each in gc.get_objects() if vars(temporary)["_closer"] is each]
    left_open(monkeypatch, archive, shelf, *files)
    with zipfile.ZipFile(tmp_path / "archive") as found:
        assert found.read("name") == WORDS
    with shelve.open(str(tmp_path / "shelf"), "r") as kept:
        assert kept["list"] == [1]
    assert not removed.exists()


def test_plain_files_stay_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread of a handler may still write to them."""
    text = (tmp_path / "text").open("w")
    text.write(WORDS.decode())
    odd = io.TextIOWrapper(gzip.GzipFile(fileobj=io.BytesIO(), mode="wb"))
    monkeypatch.setattr(sys, "stdout", odd)
    left_open(monkeypatch, text, odd)
    assert (tmp_path / "text").read_bytes() == WORDS
    assert not text.closed
    assert not odd.closed
    text.close()


def test_nothing_more_is_sent_to_a_client(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What comes after the end of an answer that was cut would make it look whole."""
    ours, theirs = socket.socketpair()
    with theirs:
        files: list[Any] = [ours.makefile(mode) for mode in ("wb", "w", "rwb")]
        files.append(ours.makefile("wb", buffering=0))
        packed = gzip.GzipFile(fileobj=files[0], mode="wb")
        files[0].write(WORDS)
        ours.shutdown(socket.SHUT_RDWR)
        left_open(monkeypatch, packed, *files)
        assert theirs.recv(100) == b""
        assert not caplog.records
        for file in files:
            assert not file.closed
        for file in files:
            with suppress(BrokenPipeError):
                file.close()
        ours.close()


def test_full_disk_costs_no_other_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    full = gzip.GzipFile("/dev/full", "wb")
    good = gzip.open(tmp_path / "good", "wb")  # noqa: SIM115
    for file in (full, good):
        file.write(WORDS)
    left_open(monkeypatch, full, good)
    assert gzip.decompress((tmp_path / "good").read_bytes()) == WORDS
    (record,) = caplog.records
    assert record.msg is events.LIMITS
    assert "'/dev/full' are lost: [Errno 28] No space left on device" in record.getMessage()


def test_odd_class_is_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Meta(type):
        __hash__ = None  # type: ignore[assignment]

        def __eq__(cls, _other: object) -> bool:
            raise ValueError

        def __getattribute__(cls, _name: str) -> Any:
            raise KeyError

    class Odd(metaclass=Meta):
        """Tells nothing."""

    good = (tmp_path / "good").open("wb")
    good.write(WORDS)
    left_open(monkeypatch, Odd(), good)
    assert (tmp_path / "good").read_bytes() == WORDS
    good.close()
