"""The directories in which handlers are looked for."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from graced.app import configuration, handler_path, preflight
from graced.app.settings import Settings
from graced.errors import ConfigError

MODULE = "handler_in_the_current_directory"
HANDLER = f"{MODULE}:Handler"
ME = -1
"""The own user or group, which the tests do not know beforehand."""
SOURCE = "from graced.handlers.echo import EchoHandler as Handler\n"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, with a handler in it."""
    (tmp_path / f"{MODULE}.py").write_text(SOURCE)
    tmp_path.chmod(0o700)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return tmp_path


def settings(handler: str = HANDLER) -> Settings:
    return configuration.load("/dev/null", {"server.handler": ("--handler", handler)})


def test_handler_in_the_current_directory_is_found(here: Path) -> None:
    found = handler_path.find(settings(), {})
    assert found
    assert found.factory.__name__ == "EchoHandler"
    assert sys.path[-1] == str(here)


@pytest.mark.parametrize(
    "variable", ["NOTIFY_SOCKET", "LISTEN_FDS", "SYSTEMD_EXEC_PID", preflight.VARIABLE]
)
def test_service_manager_never_starts_it(variable: str, here: Path) -> None:
    with pytest.raises(ConfigError, match=r"\(a service manager starts graced\)"):
        handler_path.find(settings(), {variable: str(os.getpid())})
    assert str(here) not in sys.path


def test_terminal_below_a_service_manager_is_for_a_person(here: Path) -> None:
    """As in a terminal of GNOME, which is a service of the user's systemd."""
    environ = {"INVOCATION_ID": "1" * 32, "SYSTEMD_EXEC_PID": str(os.getppid())}
    assert handler_path.find(settings(), environ)
    assert sys.path[-1] == str(here)


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o702])
def test_directory_that_others_can_write_to_does_not_count(mode: int, here: Path) -> None:
    here.chmod(mode)
    with pytest.raises(ConfigError, match=r"\(others can write to it\)"):
        handler_path.find(settings(), {})


def test_isolated_python_does_not_look_there(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As /usr/sbin/graced runs."""
    monkeypatch.setattr(
        handler_path, "sys", SimpleNamespace(flags=SimpleNamespace(isolated=1), path=sys.path)
    )
    with pytest.raises(ConfigError, match=r"\(this Python is isolated \(-I\)\); install it in /"):
        handler_path.find(settings(), {})


def test_current_directory_that_is_gone_does_not_count(here: Path) -> None:
    (here / f"{MODULE}.py").unlink()
    here.rmdir()
    with pytest.raises(ConfigError, match=r"\(No such file or directory\)"):
        handler_path.find(settings(), {})


@pytest.mark.parametrize(
    ("mode", "owner", "group", "trusted"),
    [
        (0o755, 0, 0, True),
        (0o755, ME, ME, True),
        (0o775, ME, ME, True),
        (0o775, ME, 54321, False),
        (0o757, ME, ME, False),
        (0o755, 54321, 54321, False),
    ],
)
def test_directory_is_ours_alone(mode: int, owner: int, group: int, trusted: bool) -> None:
    me = os.geteuid()
    user, its_group = (me if who == ME else who for who in (owner, group))
    status = os.stat_result((mode, 0, 0, 1, user, its_group, 0, 0, 0, 0))
    assert handler_path._is_ours_alone(status) == trusted


def test_error_inside_of_a_handler_is_no_question_of_the_path(here: Path) -> None:
    (here / f"{MODULE}.py").write_text("import no_such_module\n")
    with pytest.raises(ConfigError) as caught:
        handler_path.find(settings(), {})
    assert "looked for" not in str(caught.value)


@pytest.mark.parametrize("handler", ["echo", "echo-threaded"])
def test_built_in_handler_needs_no_path(handler: str, here: Path) -> None:
    handler_path.find(settings(handler), {})
    assert str(here) not in sys.path
