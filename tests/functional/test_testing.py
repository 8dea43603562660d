"""`graced.testing`, with which authors of handlers test them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from graced.testing import Service, ServiceError
from support import asynchronous
from support.foreign import Lines
from support.handlers import FailingHandler
from support.options import Blocking, Lenient, Stream


@pytest.mark.parametrize("handler", [Stream, Blocking])
def test_client_stays_connected_at_a_restart_and_hears_of_a_stop(handler: type) -> None:
    with Service(handler, options={"word": "written", "number": 8}) as service:
        with service.connect() as client:
            for _ in range(3):
                client.sendall(b"?")
                assert client.recv(100) == b"written 8\n"
                address = service.address
                service.restart()
                assert service.address == address
            service.begin_stop()
            assert client.recv(100) == b""
        assert service.wait() == 0
        assert not service.failures


def test_asyncio_handler_is_served_and_restarted() -> None:
    with Service(asynchronous.Counter, options={"first": 7}) as service:
        with service.connect() as client:
            for number in (b"1\n", b"2\n"):
                client.sendall(b"a")
                assert client.recv(100) == number
                service.restart()
            service.begin_stop()
            assert client.recv(100) == b""
        assert service.wait() == 0
        assert not service.failures


@pytest.mark.parametrize("handler", [asynchronous.echo, f"{asynchronous.HERE}:partly"])
def test_handler_may_be_a_function_or_a_name(handler: Any) -> None:
    with Service(handler) as service, service.connect() as client:
        client.sendall(b"a")
        assert client.recv(1) == b"a"


@pytest.mark.parametrize("handler", [asynchronous.partly, asynchronous.called])
def test_object_that_does_not_know_its_name_is_refused(handler: Any) -> None:
    with pytest.raises(TypeError, match="must be given by its name"):
        Service(handler)


def test_client_that_does_not_go_is_closed() -> None:
    with Service("echo", grace=600) as service, service.connect() as client:
        client.sendall(b"a")
        assert client.recv(1) == b"a"
        service.begin_stop()
        assert client.recv(100) == b"SHUTDOWN"
        service.end_grace_period()
        assert service.wait() == 0
        assert "1 closed at the deadline" in service.log[-1]


def test_handler_that_cannot_save_is_told_at_a_restart() -> None:
    with Service(Lines, config="[limits]\nmax_clients = 7") as service:
        with service.connect() as client:
            client.sendall(b"a\n")
            client.recv(100)
            service.wait_for_log("connection from")
            client.shutdown(1)
            while client.recv(100):
                pass
        service.restart()
        assert service.stop() == 0


def test_failure_of_the_handler_is_seen() -> None:
    with Service(FailingHandler) as service:
        with service.connect() as client:
            client.sendall(b"7")
            while client.recv(100):
                pass
        assert service.stop() == 0
        assert any("seven is not nice" in line for line in service.failures)


def test_state_directory(tmp_path: Path) -> None:
    with Service(Lenient, state_directory=tmp_path) as service, service.connect() as client:
        client.sendall(b"?")
        assert client.recv(1000).endswith(os.fsencode(tmp_path))


def test_start_that_is_refused_says_why() -> None:
    with (
        pytest.raises(ServiceError, match=r"handler\.number must be even, not 7"),
        Service(Stream, options={"number": 7}),
    ):
        raise AssertionError


def test_restart_that_would_fail_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = tmp_path / "some_handler.py"
    module.write_text("from support.options import Stream\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with Service("some_handler:Stream") as service:
        module.write_text("raise ValueError('broken')\n")
        with pytest.raises(ServiceError, match="no restart, but a stop with exit status 0:"):
            service.restart()
        assert "ValueError: broken" in "\n".join(service.log)
