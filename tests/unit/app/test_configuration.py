"""Files and options: their precedence, and the configuration as TOML."""

from __future__ import annotations

import os
import socket
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graced.app import configuration, settings
from graced.app.configuration import Value
from graced.errors import ConfigError, UsageError
from graced.sockets.address import Address
from support.text import texts


@pytest.fixture
def etc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """In place of /etc/graced."""
    monkeypatch.setattr(settings, "CONFIG_FILE", str(tmp_path / "graced.toml"))
    monkeypatch.setattr(settings, "DROP_INS", str(tmp_path / "conf.d"))
    (tmp_path / "conf.d").mkdir()
    return tmp_path


def test_defaults_hold_without_files(etc: Path) -> None:
    assert configuration.load(None, {}) == settings.Settings(
        listen=(Address("localhost", 9999),),
        handler="echo",
        backlog=1024,
        keepalive_idle=120.0,
        keepalive_interval=15.0,
        keepalive_count=4,
        user_timeout=180.0,
        io_threads=0,
        event_loop="asyncio",
        proxy_protocol=(),
        agent=None,
        certificate="",
        private_key="",
        client_ca="",
        grace_period=5.0,
        farewell=b"SHUTDOWN",
        farewell_is_written=False,
        farewell_gap=0.1,
        farewell_spread=0.0,
        lame_duck=0.0,
        allow=(),
        deny=(),
        refusal="tell",
        max_clients=4096,
        max_clients_per_host=0,
        max_new_per_second=0,
        max_new_per_second_per_host=0,
        idle_timeout=0.0,
        stall_timeout=60.0,
        max_handler_threads=256,
        keep="restart",
        level="info",
        connections=True,
        probes=True,
        pid_file="/run/graced/graced.pid",
        options={},
    )


def test_drop_ins_come_in_order_and_options_last(etc: Path) -> None:
    (etc / "graced.toml").write_text(
        "[limits]\nmax_clients = 1\nidle_timeout = 1\nstall_timeout = 1\n[log]\nlevel = 'debug'"
    )
    for name, number in (("b.toml", 3), ("a.toml", 2), ("c.toml.disabled", 4)):
        (etc / "conf.d" / name).write_text(
            f"[limits]\nidle_timeout = {number}\nstall_timeout = {number}"
        )
    found = configuration.load(None, {"limits.stall_timeout": ("--stall", 5)})
    assert found.max_clients == 1
    assert found.idle_timeout == 3
    assert found.stall_timeout == 5
    assert found.level == "debug"


def test_drop_in_needs_no_main_file(etc: Path) -> None:
    (etc / "conf.d" / "one.toml").write_text("[limits]\nmax_clients = 7")
    assert configuration.load(None, {}).max_clients == 7


def test_named_file_stands_alone(etc: Path, tmp_path: Path) -> None:
    (etc / "graced.toml").write_text("[limits]\nmax_clients = 7")
    (etc / "conf.d" / "one.toml").write_text("[limits]\nmax_clients = 8")
    named = tmp_path / "named.toml"
    named.write_text("")
    assert configuration.load(str(named), {}).max_clients == 4096
    assert configuration.load(str(etc / "graced.toml"), {}).max_clients == 8


def test_default_file_must_exist_if_named(etc: Path) -> None:
    with pytest.raises(ConfigError, match=r"graced\.toml: No such file"):
        configuration.load(str(etc / "graced.toml"), {})


def test_error_names_its_file(etc: Path) -> None:
    (etc / "graced.toml").write_text("[limits]\nmax_clients = 1")
    wrong = etc / "conf.d" / "wrong.toml"
    wrong.write_text("[limits]\nmax_clients = 'many'")
    with pytest.raises(ConfigError) as caught:
        configuration.load(None, {})
    assert str(caught.value) == (f"{wrong}: limits.max_clients must be a whole number, not 'many'")


def fifo(path: Path) -> None:
    os.mkfifo(path)


def unix_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))


def giant(path: Path) -> None:
    """A sparse file."""
    with path.open("wb") as file:
        file.truncate(1 << 40)


NO_FILES = [
    (fifo, "it is no plain file"),
    (unix_socket, "it is no plain file"),
    (Path.mkdir, "it is a directory, not a file"),
    (giant, "larger than 1048576 bytes"),
    (lambda path: path.symlink_to("/dev/zero"), "it is no plain file"),
    (lambda path: path.symlink_to("/dev/tty"), "it is no plain file"),
    (lambda path: path.symlink_to(path), "Too many levels of symbolic links"),
    (lambda path: path.symlink_to("/nonexistent"), "No such file or directory"),
    (
        lambda path: path.write_text("\ufeff[server]\n"),
        "not TOML: it begins with a byte order mark",
    ),
    (lambda path: path.write_bytes("[server]".encode("utf-16")), "not UTF-8 at byte 0"),
]


@pytest.mark.parametrize(("make", "reason"), NO_FILES)
@pytest.mark.parametrize("name", ["graced.toml", "conf.d/it.toml"])
def test_what_is_no_file_is_refused(
    name: str, make: Callable[[Path], object], reason: str, etc: Path
) -> None:
    """At once: a start must not wait for a program that writes into a FIFO."""
    make(etc / name)
    with pytest.raises(ConfigError, match=f"^{etc / name}: {reason}"):
        configuration.load(None, {})
    with pytest.raises(ConfigError, match=f"^{etc / name}: {reason}"):
        configuration.load(str(etc / name), {})
    assert configuration.salvage(None, {}).grace_period == 5.0


def test_fifo_that_comes_in_between_is_refused(etc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look at the file and its opening."""
    path = etc / "graced.toml"
    fifo(path)
    (etc / "plain").touch()
    monkeypatch.setattr(os, "stat", lambda _path: os.lstat(etc / "plain"))
    with pytest.raises(ConfigError, match="it is no plain file"):
        configuration.load(str(path), {})


def test_null_device_is_an_empty_file() -> None:
    assert configuration.load("/dev/null", {}).grace_period == 5.0


def test_longest_file_is_read(etc: Path) -> None:
    text = "[shutdown]\ngrace_period = 7\n"
    filling = "#" * (configuration.LONGEST_FILE - len(text))
    (etc / "graced.toml").write_text(text + filling)
    assert configuration.load(None, {}).grace_period == 7
    (etc / "graced.toml").write_text(text + filling + "#")
    with pytest.raises(ConfigError, match="larger than"):
        configuration.load(None, {})


def test_unknown_key_is_refused(etc: Path) -> None:
    (etc / "graced.toml").write_text("[server]\ncolour = 1\n")
    with pytest.raises(ConfigError, match=r"unknown key .server\.colour., allowed in "):
        configuration.load(None, {})


def test_unknown_section_is_refused(etc: Path) -> None:
    (etc / "graced.toml").write_text("[acces]\n")
    with pytest.raises(
        ConfigError, match="unknown section 'acces', allowed are access, continuity"
    ):
        configuration.load(None, {})


def test_error_names_its_option(etc: Path) -> None:
    with pytest.raises(UsageError, match=r"^--grace must be from 0 to 86400 seconds, not -1$"):
        configuration.load(None, {"shutdown.grace_period": ("--grace", -1)})


@pytest.mark.parametrize("name", [".#60.toml", ".60.toml.swp", "60.toml~", "60.toml.dpkg-dist"])
def test_file_of_an_editor_is_no_drop_in(name: str, etc: Path) -> None:
    """Emacs locks 60.toml by a dangling link of this name."""
    (etc / "conf.d" / name).symlink_to("user@host.1234")
    assert configuration.load(None, {}).max_clients == 4096


def test_unreadable_directory_of_drop_ins_is_an_error(etc: Path) -> None:
    (etc / "conf.d").rmdir()
    (etc / "conf.d").write_text("")
    with pytest.raises(ConfigError, match=r"conf\.d: Not a directory$"):
        configuration.load(None, {})


# The last words of a start that is refused.


@pytest.mark.parametrize(
    "wrong",
    [
        "[limits]\nmax_client = 1",
        "[limits]\nmax_clients = 'many'",
        "[nonsense]\na = 1",
        "limits = 7",
        "[limits",
        "\udcff",
    ],
)
def test_valid_values_of_a_refused_configuration_are_salvaged(wrong: str, etc: Path) -> None:
    (etc / "conf.d" / "1.toml").write_text("[shutdown]\nfarewell = 'BYE'\ngrace_period = -1")
    (etc / "conf.d" / "2.toml").write_bytes(wrong.encode("utf-8", "surrogateescape"))
    (etc / "conf.d" / "3.toml").write_text("[server]\nbacklog = 7")
    with pytest.raises(ConfigError):
        configuration.load(None, {})
    found = configuration.salvage(None, {"server.handler": ("--handler", "a:B")})
    assert (found.farewell, found.handler, found.backlog) == (b"BYE", "a:B", 7)
    assert found.grace_period == 5.0
    assert found.max_clients == 4096


def test_nothing_is_salvaged_from_a_missing_file() -> None:
    found = configuration.salvage("/nonexistent", {"shutdown.grace_period": ("--grace", "x")})
    assert found == configuration.load("/dev/null", {})


# The configuration as TOML.


def test_each_value_is_printed_with_its_source(etc: Path) -> None:
    drop_in = etc / "conf.d" / "1.toml"
    drop_in.write_text("[limits]\nmax_clients = 7")
    values = configuration.read(None, {"log.level": ("--log-level", "debug")})
    lines = configuration.as_toml(values).splitlines()
    assert f"max_clients = 7  # {drop_in}" in lines
    assert 'level = "debug"  # --log-level' in lines
    assert 'listen = ["localhost:9999"]  # default' in lines
    assert [line for line in lines if line.startswith("[")] == [
        *("[server]", "[tls]", "[shutdown]", "[access]", "[limits]", "[continuity]", "[log]"),
        "[daemon]",
    ]


@given(handler=texts(1), farewell=texts(1).map(lambda text: text[:200]), grace=st.floats(0, 86400))
def test_printed_configuration_can_be_read_back(
    handler: str, farewell: str, grace: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    written: dict[str, Any] = {
        "server.handler": handler,
        "shutdown.farewell": farewell,
        "shutdown.grace_period": grace,
        "server.listen": ["*:7", 'unix:/a "b"\\c'],
        "log.connections": False,
    }
    first = configuration.read("/dev/null", {key: ("-", value) for key, value in written.items()})
    file = tmp_path_factory.mktemp("toml") / "printed.toml"
    file.write_text(configuration.as_toml(first), encoding="utf-8")
    second = configuration.read(str(file), {})
    assert {key: value.checked for key, value in first.items()} == {
        key: value.checked for key, value in second.items()
    }


def test_source_cannot_break_out_of_its_comment() -> None:
    value = Value(written=1, checked=1, source="a\nb = 2")
    text = configuration.as_toml({"limits.max_clients": value})
    assert tomllib.loads(text) == {"limits": {"max_clients": 1}}


# Options of the handler.

OPTIONS = """
[handler]
word = "a"
"two words" = [1, 2.5, true, ["x"]]
when = 2026-11-26T12:00:00Z
at = 07:30:00
day = 2026-11-26
huge = 1e300
[handler.table]
"a.b" = { c = "\\u0000", d = inf }
"""


def test_options_of_the_handler_merge_by_key(etc: Path) -> None:
    (etc / "graced.toml").write_text("[handler]\na = 1\nb = {x = 1, y = 2}\nc = 1")
    drop_in = etc / "conf.d" / "1.toml"
    drop_in.write_text("[handler]\na = 2\nb = {x = 3}")
    first, second = str(etc / "graced.toml"), str(drop_in)
    assert configuration.load(None, {}).options == {
        "a": (2, second),
        "b": ({"x": 3}, second),
        "c": (1, first),
    }
    lines = configuration.as_toml(configuration.read(None, {})).splitlines()
    assert lines[lines.index("[handler]") :] == [
        "[handler]",
        f"a = 2  # {second}",
        f"b = {{x = 3}}  # {second}",
        f"c = 1  # {first}",
    ]


def test_printed_options_can_be_read_back(etc: Path, tmp_path: Path) -> None:
    (etc / "graced.toml").write_text(OPTIONS)
    first = configuration.read(None, {})
    printed = tmp_path / "printed.toml"
    printed.write_text(configuration.as_toml(first))
    second = configuration.read(str(printed), {})
    assert {key: value.written for key, value in first.items()} == {
        key: value.written for key, value in second.items()
    }
    assert len(second) == len(settings.SETTINGS) + 7


def test_section_of_the_handler_is_a_table(etc: Path) -> None:
    (etc / "graced.toml").write_text('handler = "echo"')
    with pytest.raises(ConfigError, match="handler must be a section, not 'echo'"):
        configuration.load(None, {})


def test_options_are_not_salvaged(etc: Path) -> None:
    """They may be what is wrong, and the last words need none."""
    (etc / "graced.toml").write_text("[handler]\na = 1\n[shutdown]\nfarewell = 'BYE'")
    found = configuration.salvage(None, {})
    assert (found.options, found.farewell) == ({}, b"BYE")


# Names and links that lead elsewhere.


@pytest.mark.parametrize("part", ["conf.d", ""], ids=["drop-ins", "all of it"])
def test_link_to_a_directory_that_is_missing_is_an_error(part: str, etc: Path) -> None:
    """It leads to a disk that is not mounted: the defaults would be served."""
    (etc / "conf.d").rmdir()
    if part:
        (etc / part).symlink_to("/nonexistent/conf.d")
    else:
        etc.rmdir()
        etc.symlink_to("/nonexistent")
    reason = f"^{etc / part}: it is a link to what does not exist$"
    with pytest.raises(ConfigError, match=reason):
        configuration.load(None, {})
    assert configuration.salvage(None, {}).max_clients == 4096


def test_links_that_lead_to_files_are_followed(etc: Path) -> None:
    (etc / "conf.d").rename(etc / "elsewhere")
    (etc / "conf.d").symlink_to("elsewhere")
    (etc / "real").write_text("[limits]\nmax_clients = 3\n")
    (etc / "conf.d" / "1.toml").symlink_to("../real")
    assert configuration.load(None, {}).max_clients == 3


def test_loop_of_directories_of_drop_ins_is_an_error(etc: Path) -> None:
    (etc / "conf.d").rmdir()
    (etc / "conf.d").symlink_to("conf.d")
    with pytest.raises(ConfigError, match=r"conf\.d: Too many levels of symbolic links$"):
        configuration.load(None, {})


def test_lines_may_end_as_in_windows(etc: Path) -> None:
    text = "# a comment\r\n[server]\r\n\r\n[limits]\r\nmax_clients = 3\r\n"
    (etc / "conf.d" / "1.toml").write_bytes(text.encode())
    (etc / "graced.toml").write_bytes(b"[server]\r\n# nothing\r\n")
    assert configuration.load(None, {}).max_clients == 3


@pytest.mark.parametrize("name", [b"a\nb.toml", b"\xff.toml", b"\x1b[2J.toml"])
def test_error_in_a_file_with_an_odd_name_names_it(name: bytes, etc: Path) -> None:
    path = os.fsencode(etc / "conf.d") + b"/" + name
    with open(path, "wb") as file:
        file.write(b"[server]\nx = 1\n")
    with pytest.raises(ConfigError, match="unknown key") as caught:
        configuration.load(None, {})
    assert str(caught.value).startswith(os.fsdecode(path))
