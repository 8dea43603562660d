"""Tests of the handlers, with the helper that graced has for them: pytest in this directory."""

import sys
from pathlib import Path

import pytest

from graced.testing import Service

MODULES = Path(__file__).parent / "package" / "usr" / "lib" / "python3" / "dist-packages"


@pytest.fixture(params=["Upper", "UpperBlocking"])
def handler(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.syspath_prepend(str(MODULES))
    return f"graced_upper:{request.param}"


def test_lines_are_answered(handler: str) -> None:
    with Service(handler, options={"prefix": "> "}) as service:
        with service.connect() as client, client.makefile("rwb", 0) as file:
            file.write(b"one\ntwo\n")
            assert [file.readline(), file.readline()] == [b"> ONE\n", b"> TWO\n"]
        assert service.stop() == 0
        assert not service.failures


def test_half_a_line_outlives_a_restart(handler: str, tmp_path: Path) -> None:
    with Service(handler, state_directory=tmp_path) as service:
        with service.connect() as client, client.makefile("rwb", 0) as file:
            file.write(b"one\nand ")
            assert file.readline() == b"ONE\n"
            service.restart()
            file.write(b"two\n")
            assert file.readline() == b"AND TWO\n"
            service.begin_stop()
            assert file.readline() == b""
        assert service.wait() == 0
    assert (tmp_path / "total").read_text() == "2\n"


def test_line_that_is_too_long_ends_the_connection(handler: str) -> None:
    with Service(handler, options={"longest": 3}) as service, service.connect() as client:
        client.sendall(b"ok\nlong\n")
        with client.makefile("rb") as file:
            assert file.read() == b"OK\n"


def test_entry_points_name_the_handlers() -> None:
    (points,) = MODULES.glob("*.dist-info/entry_points.txt")
    assert "upper = graced_upper:Upper\n" in points.read_text()
    assert sys.version_info >= (3, 11)
