"""Nothing in README, docs and man pages looks like a command and is not run."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib

import pytest

from docs import CHECKOUT
from docs.pages import CHECKOUT_PLACE, DEVICE_PLACE, PAGES, Block, blocks
from docs.terminal import PROMPTS, pattern
from docs.words import ALLOWED, GLOSSARY, WRONG, files, search
from graced.app import configuration, parser, settings

BLOCKS = [block for page in PAGES for block in blocks(page)]
NOT_A_COMMAND = {"", "text", "python", "toml"}
"""Languages of blocks that nobody types; in man pages there is no language."""
RUN_BY_HAND = re.compile(
    r"make (run|test|check|bench|soak|coverage|deb)\b|.*GRACED_FULL=1 .venv/bin/python -m pytest"
)
"""Commands that run the tests, or take longer than all of the tests."""


def name(block: Block) -> str:
    return block.name


def test_each_place_has_blocks() -> None:
    assert {CHECKOUT_PLACE, DEVICE_PLACE} <= {block.place for block in BLOCKS}


@pytest.mark.parametrize("block", BLOCKS, ids=name)
def test_block_without_marker_is_no_command(block: Block) -> None:
    if not block.marker:
        assert block.language in NOT_A_COMMAND
        assert not re.search(r"^[$#] \S+.*$", block.text, re.M) or block.language in {
            "python",
            "toml",
        }


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.marker], ids=name)
def test_marker_exists(block: Block) -> None:
    if block.marker.startswith("runs"):
        assert block.place in PROMPTS
        assert block.page.suffix != ".md" or block.language == "console"
    elif block.marker.startswith("no test"):
        assert block.commands
        assert all(RUN_BY_HAND.match(command) for command in block.commands)
    else:
        assert block.file


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "python"], ids=name)
def test_python_is_python(block: Block) -> None:
    ast.parse(block.text)


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "toml"], ids=name)
def test_configuration_has_keys_that_exist(block: Block) -> None:
    known = {setting.key: setting for setting in settings.SETTINGS}
    for section, table in tomllib.loads(block.text).items():
        if section in {"project", configuration.HANDLER}:
            continue
        for key, value in table.items():
            known[f"{section}.{key}"].check(value)


def test_options_and_targets_in_sentences_exist() -> None:
    known = {word for action in parser.parser()._actions for word in action.option_strings}
    targets = set(re.findall(r"^(\w+):", (CHECKOUT / "Makefile").read_text(), re.M))
    for page in PAGES:
        text = page.read_text()
        for command in re.findall(r"`graced (-[^`]*)`", text):
            used = set(re.findall(r"(?<!\S)--?[a-z][\w-]*", command))
            assert used <= known, f"{page.name}: {command}"
        for target in re.findall(r"`make (\w+)[^`]*`", text):
            assert target in targets, f"{page.name}: make {target}"


def test_links_lead_to_files() -> None:
    for page in PAGES:
        if page.suffix == ".md":
            for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
                assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_links_lead_to_headings() -> None:
    for page in PAGES:
        if page.suffix == ".md":
            for link, anchor in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", page.read_text()):
                target = (page.parent / link) if link else page
                headings = re.findall(r"^#+ (.*)$", target.read_text(), re.M)
                anchors = [re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings]
                assert anchor in anchors, f"{page.name}: {link}#{anchor}"


@pytest.mark.parametrize(
    ("shown", "same", "different"),
    [
        ("02:41:07.310 INFO  up", "23:59:59.999 INFO  up", "INFO  up"),
        ("with pid 4711", "with pid 1", "with pid x"),
        ("127.0.0.1:51234", "127.0.0.1:40000", "127.0.0.1:9999"),
        ("from 127.0.0.1:9999", "from [::1]:9999", "from [::2]:9999"),
        ("time=0.184 ms", "time=12.000 ms", "time=1 s"),
        ("waited 213 ms", "waited 1 ms", "waited ms"),
        ("2 sent, 2 received", "2 sent, 2 received", "2 sent, 1 received"),
        ("a ... c", "a b c", "a b"),
        ("1 client (really)", "1 client (really)", "1 client really"),
    ],
)
def test_wildcard_matches_variable_parts_only(shown: str, same: str, different: str) -> None:
    assert pattern(shown).fullmatch(shown)
    assert pattern(shown).fullmatch(same)
    assert not pattern(shown).fullmatch(different)


def test_each_word_of_glossary_is_searched_for() -> None:
    rows = re.findall(r"^\|.*\|.*\|(.*)\|$", GLOSSARY.read_text(), re.M)
    words = {word.strip() for row in rows for word in row.split(",")}
    assert words - {"", "not", "---"} == set(WRONG)


def test_word_of_wrong_meaning_is_found() -> None:
    wrong = {
        "port": "the first port",
        "door": "a door",
        "conversation": "its conversation",
        "visit": "the visits",
        "manners": "manners",
        "owed": "what is owed",
        "left": "3 clients left",
        "hand on": "handed on",
        "leave": "leaves its clients",
        "carry": "carried 3",
        "keep": "keeps the listeners",
        "parcel": "a parcel",
        "keeper": "the Keeper",
        "legacy": "legacy",
        "passed": "passed on",
    }
    assert set(wrong) == set(WRONG)
    for word, text in wrong.items():
        assert re.search(WRONG[word], text, re.IGNORECASE), word


def test_each_exception_is_needed() -> None:
    for allowed in ALLOWED:
        lines = [
            line
            for path in files()
            for line in path.read_text().splitlines()
            if path.match(allowed.files) and re.search(allowed.text, line)
        ]
        assert lines, allowed


def test_no_wrong_word_is_used() -> None:
    assert [each for path in files() for each in search(path)] == []


def test_help_names_each_target() -> None:
    done = subprocess.run(
        ["make", "--silent", "help"], cwd=CHECKOUT, check=True, capture_output=True, text=True
    )
    phony = re.findall(r"^\.PHONY: (.*)$", (CHECKOUT / "Makefile").read_text(), re.M)
    listed = re.findall(r"^  (\w+) ", done.stdout, re.M)
    assert listed == " ".join(phony).split()


def test_architecture_names_existing_modules() -> None:
    text = (CHECKOUT / "docs" / "architecture.md").read_text()
    package = CHECKOUT / "daemon" / "graced"
    for cell in re.findall(r"[^|]+", text):
        source = ""
        for code in re.findall(r"`([^`]+)`", cell):
            if re.fullmatch(r"[\w/]+\.py", code) and not code.startswith("tests/"):
                source = (package / code).read_text()
            elif re.fullmatch(r"_?[A-Z]\w+(\.\w+)?|_\w+", code) and source:
                for name in code.split("."):
                    assert re.search(rf"^\s*(class|def) {name}\b", source, re.M), code
