"""Every tunable: where it comes from, what it may be."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from graced.app import settings
from graced.app.settings import SETTINGS, Setting
from graced.errors import ConfigError, UsageError
from graced.sockets.address import Address
from support import CHECKOUT

SHIPPED = (CHECKOUT / "etc" / "graced.toml").read_text()
NUMBERS = [setting for setting in SETTINGS if type(setting.default) in {int, float}]


@pytest.fixture
def etc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """In place of /etc/graced."""
    monkeypatch.setattr(settings, "CONFIG_FILE", str(tmp_path / "graced.toml"))
    monkeypatch.setattr(settings, "DROP_INS", str(tmp_path / "conf.d"))
    (tmp_path / "conf.d").mkdir()
    return tmp_path


def key(setting: Setting) -> str:
    return setting.key


def test_without_anything_the_defaults_hold(etc: Path) -> None:
    assert settings.load(None, {}) == settings.Settings(
        listen=(Address("localhost", 9999),),
        handler="echo",
        backlog=1024,
        io_threads=0,
        grace_period=5.0,
        farewell=b"SHUTDOWN",
        farewell_gap=0.1,
        max_clients=4096,
        max_clients_per_host=0,
        idle_timeout=0.0,
        stall_timeout=60.0,
        max_handler_threads=256,
        keep="restart",
        level="info",
        connections=True,
        pid_file="/run/graced/graced.pid",
    )


def test_files_come_in_order_and_options_last(etc: Path) -> None:
    (etc / "graced.toml").write_text(
        "[limits]\nmax_clients = 1\nidle_timeout = 1\nstall_timeout = 1\n[log]\nlevel = 'debug'"
    )
    for name, number in (("b.toml", 3), ("a.toml", 2), ("c.toml.disabled", 4)):
        (etc / "conf.d" / name).write_text(
            f"[limits]\nidle_timeout = {number}\nstall_timeout = {number}"
        )
    found = settings.load(None, {"limits.stall_timeout": ("--stall", 5)})
    assert found.max_clients == 1
    assert found.idle_timeout == 3
    assert found.stall_timeout == 5
    assert found.level == "debug"


def test_drop_ins_need_no_main_file(etc: Path) -> None:
    (etc / "conf.d" / "one.toml").write_text("[limits]\nmax_clients = 7")
    assert settings.load(None, {}).max_clients == 7


def test_a_file_that_is_named_stands_alone(etc: Path, tmp_path: Path) -> None:
    (etc / "graced.toml").write_text("[limits]\nmax_clients = 7")
    (etc / "conf.d" / "one.toml").write_text("[limits]\nmax_clients = 8")
    named = tmp_path / "named.toml"
    named.write_text("")
    assert settings.load(str(named), {}).max_clients == 4096
    assert settings.load(str(etc / "graced.toml"), {}).max_clients == 8


def test_the_default_file_must_exist_when_it_is_named(etc: Path) -> None:
    with pytest.raises(ConfigError, match=r"graced\.toml: No such file"):
        settings.load(str(etc / "graced.toml"), {})


def test_an_error_names_the_file_that_has_it(etc: Path) -> None:
    (etc / "graced.toml").write_text("[limits]\nmax_clients = 1")
    wrong = etc / "conf.d" / "wrong.toml"
    wrong.write_text("[limits]\nmax_clients = 'many'")
    with pytest.raises(ConfigError) as caught:
        settings.load(None, {})
    assert str(caught.value) == (f"{wrong}: limits.max_clients must be a whole number, not 'many'")


def test_what_is_unknown_may_be_for_the_next_version(etc: Path) -> None:
    (etc / "graced.toml").write_text(
        "[access]\nallow = []\n[server]\ncolour = 1\nbacklog = 7\n", encoding="utf-8"
    )
    with pytest.raises(ConfigError, match="unknown section 'access'"):
        settings.load(None, {})
    assert settings.load(None, {}, lenient=True).backlog == 7


def test_an_error_in_an_option_names_the_option(etc: Path) -> None:
    with pytest.raises(UsageError, match=r"^--grace must be from 0 to 86400 seconds, not -1$"):
        settings.load(None, {"shutdown.grace_period": ("--grace", -1)})


@pytest.mark.parametrize("setting", SETTINGS, ids=key)
def test_the_shipped_file_has_each_key_commented_with_its_default(setting: Setting) -> None:
    section, name = setting.key.split(".")
    part = re.search(rf"^\[{section}\]\n(.*?)(?=^\[|\Z)", SHIPPED, re.M | re.S)
    assert part
    line = re.search(rf"^# .+\n#({name} = .*)$", part[1], re.M)
    assert line
    assert tomllib.loads(line[1])[name] == setting.default


def test_the_shipped_file_has_no_other_key() -> None:
    assert len(re.findall(r"^#\w+ = ", SHIPPED, re.M)) == len(SETTINGS)


@pytest.mark.parametrize("setting", SETTINGS, ids=key)
def test_each_says_what_it_is_and_why(setting: Setting) -> None:
    assert setting.unit
    assert setting.reason
    setting.check(setting.default)


@pytest.mark.parametrize("setting", NUMBERS, ids=key)
@pytest.mark.parametrize("wrong", ["5", True, None, [], {}, float("nan"), float("inf"), -1, 10**9])
def test_numbers_have_a_type_and_a_range(setting: Setting, wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"^must be (a number|a whole|from)"):
        setting.check(wrong)


@pytest.mark.parametrize("setting", [s for s in NUMBERS if type(s.default) is int], ids=key)
def test_whole_numbers_are_whole(setting: Setting) -> None:
    with pytest.raises(ValueError, match="whole number"):
        setting.check(1.0)


@pytest.mark.parametrize("setting", NUMBERS, ids=key)
def test_the_ends_of_a_range_belong_to_it(setting: Setting) -> None:
    with pytest.raises(ValueError, match="from") as caught:
        setting.check(-1)
    ends = re.search(r"from (\S+) to (\S+)", str(caught.value))
    assert ends
    kind = type(setting.default)
    for end in ends.groups():
        number = float(end)
        assert setting.check(kind(number)) == number
    with pytest.raises(ValueError, match="from"):
        setting.check(kind(float(ends[2]) + 1))


@pytest.mark.parametrize(
    ("name", "value", "checked"),
    [
        ("server.listen", "*:7", (Address("*", 7),)),
        ("server.listen", ["*:7", "unix:/s"], (Address("*", 7), Address("", 0, "/s"))),
        ("shutdown.farewell", "", b""),
        ("shutdown.farewell", "ä", "ä".encode()),
        ("shutdown.farewell", "\udcff", b"\xff"),
        ("shutdown.farewell", "x" * 1024, b"x" * 1024),
        ("shutdown.grace_period", 1, 1.0),
        ("log.connections", False, False),
        *(("continuity.keep", keep, keep) for keep in settings.KEEP),
    ],
)
def test_what_becomes_of_a_value(name: str, value: Any, checked: Any) -> None:
    (setting,) = [setting for setting in SETTINGS if setting.key == name]
    assert setting.check(value) == checked


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("server.listen", []),
        ("server.listen", [7]),
        ("server.listen", ["*:7", "nowhere"]),
        ("server.handler", ""),
        ("server.handler", 7),
        ("server.handler", "a\0b"),
        ("shutdown.farewell", 7),
        ("shutdown.farewell", "x" * 1025),
        ("shutdown.farewell", "ä" * 513),
        ("continuity.keep", "RESTART"),
        ("continuity.keep", ""),
        ("continuity.keep", True),
        ("continuity.keep", []),
        ("log.level", "INFO"),
        ("log.level", []),
        ("log.connections", "yes"),
        ("daemon.pid_file", ""),
    ],
)
def test_what_is_refused(name: str, value: Any) -> None:
    (setting,) = [setting for setting in SETTINGS if setting.key == name]
    with pytest.raises(ValueError, match=r"^must "):
        setting.check(value)
