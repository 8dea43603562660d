"""What --describe prints."""

from __future__ import annotations

import pytest

from graced.app import configuration, description
from support.options import HERE


def describe(name: str) -> str:
    settings = configuration.load("/dev/null", {"server.handler": ("--handler", name)})
    return description.of(settings, {})


def test_options_are_printed_as_in_a_file() -> None:
    assert describe(f"{HERE}:Stream") == (
        f"{HERE}:Stream, a stream handler: runs on the I/O thread\n"
        "clients stay connected at a restart; farewell: end of file\n"
        "\n"
        "A stream handler with options.\n"
        "\n"
        "Its second paragraph.\n"
        "\n"
        "[handler]\n"
        "# what comes first: default, written, again.\n"
        '#word = "default"\n'
        "# an even number: a whole number from 0 to 100.\n"
        "#number = 2"
    )


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("echo", ["echo, built in", "RFC 862", "It has no options."]),
        (
            "echo-threaded",
            [
                "echo-threaded is graced.handlers.echo:EchoHandler, a blocking handler",
                "farewell: b'SHUTDOWN'",
                "It has no options.",
            ],
        ),
        (f"{HERE}:Blocking", [f"{HERE}:Blocking, a blocking handler", '#word = "default"']),
        (f"{HERE}:Needy", ["are told at a restart", "a string. Required.\n#path ="]),
        (
            f"{HERE}:Lenient",
            ["It checks the keys of [handler] itself.\n\nAny key is a word, and its value"],
        ),
        ("support.foreign:Unavailable", ["the handler decides for each client"]),
    ],
)
def test_kinds(name: str, parts: list[str]) -> None:
    found = describe(name)
    for part in parts:
        assert part in found
    assert "\n\n\n" not in found


def test_documentation_of_a_base_class_is_not_shown() -> None:
    assert "callbacks of" not in describe(f"{HERE}:Needy")
