"""What a live screen shows of clients, and what its keys do; graphs and rates."""

from __future__ import annotations

from typing import Any

import pytest

from graced.ctl.exposition import open_metrics, plain_text
from graced.ctl.graph import ASCII, graph
from graced.ctl.live import Look, Rates
from graced.ctl.top import SORTS, head_of
from graced.ctl.view import View

STATUS: dict[str, Any] = {
    "name": "graced",
    "version": "1",
    "pid": 7,
    "state": "serving",
    "uptime": 62.0,
    "handler": "echo",
    "clients": 2,
    "waiting": 0,
    "admitted": 5,
    "sent": 100,
    "refused": [],
    "limits": [{"name": "max_clients", "now": 2, "most": 10}],
}


def row(name: str, sent: int | None = 0, age: float = 10.0, **more: Any) -> dict[str, Any]:
    return {
        "client": name,
        "phase": "active",
        "age": age,
        "idle": 1.0,
        "received": sent,
        "sent": sent,
        "unsent": 0,
        "receivedRate": None,
        "sentRate": None,
        **more,
    }


def view(*rows: dict[str, Any], sort_by: str = "client") -> View:
    found = View(SORTS, sort_by)
    found.update(list(rows))
    return found


def names(found: View, height: int = 100) -> list[str]:
    return [line.text.split()[0] for line in found.lines(height)[1:]]


def chosen(found: View, height: int = 100) -> list[str]:
    return [line.text.split()[0] for line in found.lines(height) if line.style == "chosen"]


def test_clients_are_sorted_by_the_column_that_keys_choose() -> None:
    found = view(row("b:1", sentRate=5.0), row("a:1", sentRate=None), row("c:1", sentRate=9.0))
    assert names(found) == ["a:1", "b:1", "c:1"]
    for key, column in (("left", "unsent"), ("left", "out"), ("right", "unsent"), ("left", "out")):
        found.press(key)
        assert found.sort_by == column
    assert names(found) == ["c:1", "b:1", "a:1"]
    assert "now by OUT/S" in found.keys
    assert found.lines(10)[0].style == "head"


def test_choice_follows_its_client_and_stays_on_the_screen() -> None:
    rows = [row(f"{number:03}:1") for number in range(100)]
    found = view(*rows)
    assert chosen(found, 11) == []
    found.press("down")
    assert chosen(found, 11) == ["000:1"]
    for _ in range(30):
        found.press("down")
        assert len(chosen(found, 11)) == 1
    assert chosen(found, 11) == ["030:1"]
    assert names(found, 11)[-1] == "030:1"
    found.press("page down")
    assert chosen(found, 11) == ["040:1"]
    # Others come before it.
    found.update([row("000:0"), *rows])
    assert chosen(found, 11) == ["040:1"]
    for _ in range(20):
        found.press("page up")
    assert names(found, 11)[0] == chosen(found, 11)[0] == "000:0"
    for _ in range(20):
        found.press("page down")
    assert names(found, 11)[-1] == chosen(found, 11)[0] == "099:1"
    # It has gone.
    found.update(rows[:5])
    assert chosen(found, 11) == []
    assert len(names(found, 11)) == 5


@pytest.mark.parametrize(("key", "order"), [("t", "tell"), ("c", "close")])
def test_order_is_asked_for_first(key: str, order: str) -> None:
    found = view(row("a:1"))
    assert found.press(key) == found.asks == ""
    found.press("down")
    assert found.press(key) == ""
    assert found.asks == order
    assert found.press("n") == found.asks == ""
    found.press(key)
    assert found.press("y") == order
    assert found.press("y") == ""
    found.update([])
    assert found.press(key) == found.asks == ""


def test_empty_service_and_small_screen() -> None:
    found = view()
    for key in ("down", "up", "page down", "right", "t", "c", "y", "?"):
        assert found.press(key) == ""
    assert len(found.lines(5)) == 1
    full = view(*(row(f"{number}:1") for number in range(9)))
    for height in (-3, 0, 1, 2):
        assert len(full.lines(height)) == 2


def test_nothing_speaks_to_the_terminal() -> None:
    found = view(row("unix:/\x1b[2J#1"))
    assert "\x1b" not in found.lines(2)[1].text


def test_rates_are_those_of_the_last_second() -> None:
    rates = Rates()
    rates.add(Look(1.0, STATUS, [row("a:1", 100)]))
    assert rates.last("new") is None
    second = {**STATUS, "admitted": 9, "sent": 1100, "refused": [{"reason": "x", "clients": 2}]}
    rows = [row("a:1", 600, 11.0), row("b:1", 5, 0.5)]
    rates.add(Look(3.0, second, rows))
    assert [rates.last(name) for name in ("new", "refused", "sent")] == [2.0, 1.0, 500.0]
    assert [(each["sentRate"], each["receivedRate"]) for each in rows] == [
        (250.0, 250.0),
        (None, None),
    ]
    # Another client with the same name, and one whose bytes nobody counts.
    rows = [row("a:1", 7, 0.1), row("b:1", None, 1.5)]
    rates.add(Look(4.0, second, rows))
    assert [each["sentRate"] for each in rows] == [None, None]
    # After a crash the counts begin anew.
    rates.add(Look(5.0, {**STATUS, "pid": 8, "sent": 0}, []))
    assert list(rates.history["sent"]) == [500.0, 0.0]


def test_head_says_what_the_service_does() -> None:
    rates = Rates()
    look = Look(1.0, STATUS, [])
    rates.add(look)
    first, second, *graphs = head_of(look, rates, ASCII)
    assert first == "graced 1, pid 7, serving for 1 min 2 s, handler echo"
    assert second == "clients 2; max_clients 2 of 10"
    assert [line.split()[1] for line in graphs] == ["-/s", "-/s", "-B/s"]


@pytest.mark.parametrize(
    ("numbers", "width", "text"),
    [
        ([], 3, "   "),
        ([0, 0], 3, "   "),
        ([0, 1, 2, 4, 8], 5, " .:=@"),
        ([9, 9, 8, 4], 2, "@="),
        ([1, 1000000], 2, ".@"),
        ([-5, 1], 2, " @"),
    ],
)
def test_graph(numbers: list[float], width: int, text: str) -> None:
    assert graph(numbers, width, ASCII) == text


def test_labels_are_escaped() -> None:
    sample = {"name": "a", "labels": {"b": 'c"d\\e\nf'}, "value": 1.5}
    metric = {"name": "a", "type": "gauge", "help": "H.", "unit": "", "samples": [sample]}
    line = 'a{b="c\\"d\\\\e\\nf"} 1.5'
    assert open_metrics([metric]).splitlines() == ["# TYPE a gauge", "# HELP a H.", line, "# EOF"]
    assert plain_text([metric]) == f"# HELP a H.\n# TYPE a gauge\n{line}\n"
