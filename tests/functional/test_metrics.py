"""``gracectl metrics`` of a graced that runs, read by Prometheus' own parsers."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from signal import SIGUSR2
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.parser import text_string_to_metric_families as families_of_plain_text

from graced import __version__
from support import PASS, FdStore, Graced
from support.control import environment_in, gracectl

Numbers = dict[tuple[str, str], float]


def numbers(families: Any, *labels: str) -> Numbers:
    """By the name of each sample and its label among `labels`."""
    found = {}
    for family in families:
        for sample in family.samples:
            label = next((sample.labels[each] for each in labels if each in sample.labels), "")
            found[sample.name, label] = sample.value
    return found


def families_of(text: str) -> list[Any]:
    parse: Any = text_string_to_metric_families
    return list(parse(text))


def asked(directory: Path) -> Numbers:
    done = gracectl("metrics", directory=directory)
    assert (done.returncode, done.stderr) == (0, "")
    return numbers(families_of(done.stdout), "reason", "limit", "le")


def test_numbers_are_right(tmp_path: Path) -> None:
    config = "[limits]\nmax_clients = 2\n[access]\ndeny = ['127.0.0.9']\n"
    with (
        Graced(config=config, env=environment_in(tmp_path)) as graced,
        graced.served() as first,
        graced.served() as second,
    ):
        for client in (first, second):
            client.echo(b"hello")
        with graced.connect() as one_too_many:
            one_too_many.expect_farewell_alone()
        found = asked(tmp_path)
        assert found["graced_up", ""] == 1
        assert found["graced_clients", ""] == 2
        assert found["graced_clients_admitted_total", ""] == 2
        assert found["graced_clients_refused_total", "max_clients"] == 1
        assert found["graced_sent_bytes_total", ""] == 10
        assert found["graced_limit", "max_clients"] == 2
        assert found["graced_limit_used", "max_clients"] == 2
        assert found["graced_draining", ""] == 0
        assert found["graced_handover_seconds_count", ""] == 0
        assert found["graced_log_records_lost_total", "dropped"] == 0
        status = json.loads(gracectl("status", "--json", directory=tmp_path).stdout)
        assert status["refused"] == [{"reason": "max_clients", "clients": 1}]
        shown = gracectl("status", directory=tmp_path).stdout
        assert "refused:   1 by max_clients\n" in shown
        assert abs(found["graced_start_time_seconds", ""] - status["since"]) <= 1
        lists = json.loads(gracectl("metrics", "--json", directory=tmp_path).stdout)
        assert {each["name"] for each in lists} > {"graced_build", "graced_clients"}


def test_service_and_version_are_labels(tmp_path: Path) -> None:
    with Graced(env=environment_in(tmp_path)):
        text = gracectl("metrics", directory=tmp_path).stdout
        families = {each.name: each for each in families_of(text)}
        (sample,) = families["graced_build"].samples
        assert sample.labels == {"service": "graced", "version": __version__, "handler": "echo"}
        for family in families.values():
            assert family.documentation.endswith(".")
            for sample in family.samples:
                assert sample.labels["service"] == "graced"
        assert families["graced_sent_bytes"].unit == "bytes"
        assert families["graced_handover_seconds"].type == "histogram"


def test_counters_never_go_back_over_a_restart(store: FdStore, tmp_path: Path) -> None:
    def start() -> dict[str, Any]:
        env = {**store.environment, **environment_in(tmp_path)}
        return {"env": env, "before": PASS, "pass_fds": store.descriptors}

    before: Numbers = {}
    for handovers in range(3):
        with Graced(**start()) as graced, graced.connect() as client:
            client.echo(b"hello")
            found = asked(tmp_path)
            assert found["graced_handover_seconds_count", ""] == handovers
            assert found["graced_handover_seconds_bucket", "+Inf"] == handovers
            assert found["graced_clients_admitted_total", ""] == handovers + 1
            for key, number in before.items():
                if key[0].endswith(("_total", "_count", "_sum", "_bucket")):
                    assert found[key] >= number, key
            before = found
            graced.signal(SIGUSR2)
            assert graced.wait() == 79


def test_refusals_and_losses_go_on_over_a_restart(store: FdStore, tmp_path: Path) -> None:
    def start() -> dict[str, Any]:
        env = {**store.environment, **environment_in(tmp_path)}
        config = "[limits]\nmax_clients = 1\n"
        return {"env": env, "before": PASS, "pass_fds": store.descriptors, "config": config}

    with Graced(**start()) as first, first.served() as client:
        client.echo(b"hello")
        with first.connect() as one_too_many:
            one_too_many.expect_farewell_alone()
        first.signal(SIGUSR2)
        assert first.wait() == 79
        with Graced(**start()) as second:
            client.echo(b"hello")
            with second.connect() as one_too_many:
                one_too_many.expect_farewell_alone()
            found = asked(tmp_path)
            assert found["graced_clients_refused_total", "max_clients"] == 2
            assert found["graced_handover_seconds_sum", ""] > 0


def test_textfile_is_for_the_node_exporter(tmp_path: Path) -> None:
    runtime, directory = tmp_path / "run", tmp_path / "node-exporter"
    runtime.mkdir()
    directory.mkdir()
    path = directory / "graced.prom"
    path.write_text("old")
    old = path.open()
    with old, Graced(env=environment_in(runtime)):
        done = gracectl("metrics", "--textfile", str(path), directory=runtime)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        # A reader of the old file goes on reading it.
        assert old.read() == "old"
    text = path.read_text()
    assert text.endswith("\n")
    families = {each.name: each for each in families_of_plain_text(text)}
    assert families["graced_clients_admitted"].type == "counter"
    assert families["graced_build_info"].type == "gauge"
    assert {each.type for each in families.values()} == {"counter", "gauge", "histogram"}
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert os.listdir(directory) == ["graced.prom"]
    # The service has stopped, and the file says so.
    done = gracectl("metrics", "--textfile", str(path), directory=runtime)
    assert (done.returncode, done.stdout) == (69, "")
    found = numbers(families_of_plain_text(path.read_text()))
    assert found == {("graced_up", ""): 0}


@pytest.mark.parametrize("missing", [True, False], ids=["no directory", "a directory"])
def test_textfile_that_cannot_be_written_is_one_line(missing: bool, tmp_path: Path) -> None:
    directory = tmp_path / "node-exporter"
    path = directory / "missing" / "graced.prom" if missing else directory / "graced.prom"
    (directory if missing else path).mkdir(parents=True)
    with Graced(env=environment_in(tmp_path)):
        done = gracectl("metrics", "--textfile", str(path), directory=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("gracectl: cannot write: ")
    assert done.stderr.count("\n") == 1
    assert os.listdir(directory) == ([] if missing else ["graced.prom"])
