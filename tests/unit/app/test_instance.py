"""The names of an instance: files, unit, log; and its configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from graced.app import cli, command_line, configuration, settings
from graced.app.instance import MAIN, named
from graced.ctl import gracectl
from graced.errors import ConfigError, UsageError
from graced.log import sinks
from graced.sockets.address import Address


@pytest.fixture
def etc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """In place of /etc/graced."""
    monkeypatch.setattr(settings, "CONFIG_FILE", str(tmp_path / "graced.toml"))
    monkeypatch.setattr(settings, "DROP_INS", str(tmp_path / "conf.d"))
    (tmp_path / "graced.toml").write_text("[server]\nlisten = 'localhost:7'\n")
    return tmp_path


def test_names_of_the_main_service() -> None:
    found = (MAIN.full_name, MAIN.unit, MAIN.config_file, MAIN.drop_ins, MAIN.pid_file)
    assert found == (
        *("graced", "graced.service", "/etc/graced/graced.toml", "/etc/graced/conf.d"),
        "/run/graced/graced.pid",
    )


def test_names_of_an_instance() -> None:
    one = named("gauge-2")
    assert (one.full_name, one.unit, one.config_file, one.drop_ins, one.pid_file) == (
        *("graced@gauge-2", "graced@gauge-2.service"),
        *("/etc/graced/gauge-2.toml", "/etc/graced/gauge-2.d", "/run/graced@gauge-2/graced.pid"),
    )


@pytest.mark.parametrize(
    "name", ["", "conf", "graced", "a/b", "..", ".a", "-a", "a b", "a@b", "\u00e9", "a" * 65, "a\n"]
)
def test_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=r"^--instance must be a name of letters, digits, "):
        named(name)
    with pytest.raises(UsageError, match=r"^--instance must be"):
        command_line.parse(["-i", name] if not name.startswith("-") else [f"-i{name}"])


@pytest.mark.parametrize("name", ["a", "Gauge.2", "7_", "confd", "graced2", "a" * 64])
def test_name_of_an_instance(name: str) -> None:
    assert command_line.parse(["--instance", name]).instance == named(name)


def test_instance_reads_its_own_files(etc: Path) -> None:
    (etc / "gauge.toml").write_text("[limits]\nmax_clients = 1\nidle_timeout = 1\n")
    (etc / "gauge.d").mkdir()
    (etc / "gauge.d" / "1.toml").write_text("[limits]\nidle_timeout = 2\n")
    found = configuration.load(None, {}, named("gauge"))
    assert (found.max_clients, found.idle_timeout) == (1, 2)
    assert found.listen == (Address("localhost", 9999),)
    assert found.pid_file == "/run/graced@gauge/graced.pid"
    file = str(etc / "gauge.toml")
    assert configuration.load(file, {}, named("gauge")).idle_timeout == 2
    assert configuration.load(file, {}).idle_timeout == 1


def test_instance_must_have_a_file(etc: Path) -> None:
    """Its defaults would be a second echo at the address of the main service."""
    (etc / "gauge.d").mkdir()
    with pytest.raises(ConfigError, match=r"gauge\.toml: No such file or directory$"):
        configuration.load(None, {}, named("gauge"))
    assert configuration.salvage(None, {}, named("gauge")).max_clients == 4096


def test_log_has_the_name_of_the_instance(
    etc: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sinks, "_identifier", sinks.IDENTIFIER)
    (etc / "gauge.toml").write_text("")
    assert cli._run(["-i", "gauge", "--print-config"]) == 0
    assert sinks.identifier() == "graced@gauge"
    assert 'pid_file = "/run/graced@gauge/graced.pid"  # default' in capsys.readouterr().out


def test_gracectl_finds_the_address_of_an_instance(
    etc: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (etc / "gauge.toml").write_text("[server]\nlisten = 'localhost:1'\n")
    assert gracectl.main(["-i", "gauge", "ping", "-c1"]) == gracectl.NO_CONNECTION
    assert "cannot connect to localhost:1:" in capsys.readouterr().err
    # And does not ping another service where there is none.
    assert gracectl.main(["--instance", "other", "ping", "-c1"]) == gracectl.WRONG_USAGE
    assert capsys.readouterr().err == (f"gracectl: {etc}/other.toml: No such file or directory\n")
    assert gracectl.main(["-i", "conf", "ping"]) == gracectl.WRONG_USAGE
