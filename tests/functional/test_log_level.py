"""``gracectl log-level`` of a graced that runs."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from support import Graced, handlers
from support.control import environment_in, gracectl


def set_level(level: str, before: str, directory: Path) -> None:
    done = gracectl("log-level", level, directory=directory)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"log level {level}, before: {before}\n"


def test_level_is_shown_and_set(tmp_path: Path) -> None:
    with Graced(env=environment_in(tmp_path)) as graced:
        set_level("warning", "info", tmp_path)
        assert gracectl("log-level", directory=tmp_path).stdout == "warning\n"
        with graced.connect() as silent:
            silent.echo(b"hello")
            set_level("debug", "warning", tmp_path)
            graced.log.wait_for(
                rf"<6>user {os.getuid()} has set the log level to debug at the control socket,"
                " before: warning$"
            )
            silent.echo(b"hello again")
            graced.log.wait_for(rf"received from {silent.name}: b'hello again'$")
            with graced.connect() as client:
                client.echo(b"hello too")
                graced.log.wait_for(rf"received from {client.name}: b'hello too'$")
                set_level("error", "debug", tmp_path)
                # The order is in the log all the same.
                graced.log.wait_for("has set the log level to error at the control socket")
                client.echo(b"not logged")
                silent.echo(b"not logged")
                set_level("info", "error", tmp_path)
                client.echo(b"not logged")
                silent.echo(b"not logged")
        graced.log.wait_for("closing connection", 2)
        assert not graced.log.count("b'not logged'")
        done = gracectl("log-level", "--json", directory=tmp_path)
        assert json.loads(done.stdout) == {"level": "info", "before": "info"}
        done = gracectl("log-level", "debug", "--json", directory=tmp_path)
        assert json.loads(done.stdout) == {"level": "debug", "before": "info"}
        status = json.loads(gracectl("status", "--json", directory=tmp_path).stdout)
        assert status["logLevel"] == "debug"


def test_records_of_handlers_follow(tmp_path: Path) -> None:
    handler = f"{handlers.HERE}:TutorialHandler"
    env = environment_in(tmp_path)
    with Graced("--handler", handler, env=env) as graced, graced.connect() as client:
        set_level("error", "info", tmp_path)
        client.echo(b"not logged")
        set_level("info", "error", tmp_path)
        client.echo(b"logged")
        graced.log.wait_for("recv: b'logged'$")
        assert not graced.log.count("not logged")


@pytest.mark.parametrize("level", ["loud", "critical", "INFO", ""])
def test_unknown_level_is_one_line(level: str, tmp_path: Path) -> None:
    done = gracectl("log-level", level, directory=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "invalid choice" in done.stderr
    assert done.stderr.count("\n") == 1
