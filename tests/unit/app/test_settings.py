"""The values that every tunable may have."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from graced.app import configuration, settings
from graced.app.settings import SETTINGS, Setting
from graced.sockets.address import Address
from graced.sockets.networks import Network
from support import CHECKOUT

SHIPPED = (CHECKOUT / "etc" / "graced.toml").read_text()
TEN = Network.parse("10.0.0.0/8")
NUMBERS = [setting for setting in SETTINGS if type(setting.default) in {int, float}]


def key(setting: Setting) -> str:
    return setting.key


@pytest.mark.parametrize("setting", SETTINGS, ids=key)
def test_shipped_file_has_each_key_commented_with_its_default(setting: Setting) -> None:
    section, name = setting.key.split(".")
    part = re.search(rf"^\[{section}\]\n(.*?)(?=^\[|\Z)", SHIPPED, re.M | re.S)
    assert part
    line = re.search(rf"^# .+\n#({name} = .*)$", part[1], re.M)
    assert line
    assert tomllib.loads(line[1])[name] == setting.default


def test_shipped_file_has_no_other_key() -> None:
    assert len(re.findall(r"^#\w+ = ", SHIPPED, re.M)) == len(SETTINGS)


@pytest.mark.parametrize("setting", SETTINGS, ids=key)
def test_every_setting_has_a_unit_and_a_reason(setting: Setting) -> None:
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
def test_ends_of_a_range_belong_to_it(setting: Setting) -> None:
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
        ("access.allow", "10.0.0.0/8", (TEN,)),
        ("access.deny", ["::1", "10.0.0.0/8"], (Network.parse("::1"), TEN)),
        ("server.proxy_protocol", [], ()),
        ("server.proxy_protocol", "unix", ("unix",)),
        ("server.proxy_protocol", "10.0.0.0/8", (TEN,)),
        ("server.proxy_protocol", ["unix", "10.0.0.0/8"], (TEN, "unix")),
    ],
)
def test_value_is_converted(name: str, value: Any, checked: Any) -> None:
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
        ("access.allow", ["unix"]),
        ("access.allow", "10.0.0.1/8"),
        ("access.deny", [7]),
        ("access.deny", {}),
        ("access.deny", ["10.0.0.0/8", "10.0.0.0/8"]),
        ("access.refusal", "TELL"),
        ("server.proxy_protocol", 7),
        ("server.proxy_protocol", ["unix", 7]),
        ("server.proxy_protocol", ["unix:/run/s"]),
    ],
)
def test_wrong_value_is_refused(name: str, value: Any) -> None:
    (setting,) = [setting for setting in SETTINGS if setting.key == name]
    with pytest.raises(ValueError, match=r"^must "):
        setting.check(value)


@pytest.mark.parametrize(
    ("written", "wanted"),
    [
        ("", 180),
        ("keepalive_idle = 600", 660),
        ("keepalive_idle = 10\nkeepalive_interval = 5\nkeepalive_count = 3", 25),
        ("keepalive_idle = 10\nuser_timeout = 180", 180),
        ("keepalive_idle = 10\nuser_timeout = 0", 0),
        ("keepalive_idle = 0\nkeepalive_count = 1", 180),
        ("keepalive_interval = 32767\nkeepalive_count = 127", 86400),
    ],
)
def test_silent_client_has_the_time_that_keepalive_gives(
    tmp_path: Path, written: str, wanted: float
) -> None:
    """The kernel goes by TCP_USER_TIMEOUT where there is one, and not by the count, tcp(7)."""
    file = tmp_path / "graced.toml"
    file.write_text(f"[server]\n{written}\n")
    assert configuration.load(str(file), {}).user_timeout == wanted
