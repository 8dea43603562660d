# The commands of the README.  Everything a person needs beyond Debian's python3, python3-venv,
# make and git goes into .venv, from PyPI.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
# Tests side by side: most of a test's time is a grace period, a countdown, a peer's answer.
JOBS ?= 4

.PHONY: help run test check coverage deb bench soak clean

help: ## show this list
	@echo 'usage: make TARGET [ARGS="OPTION..."]'
	@sed -n 's/^\([a-z]*\):.*## /\1 /p' Makefile | while read -r target purpose; do \
	    printf '  %-9s %s\n' "$$target" "$$purpose"; done

run: $(VENV)/.runs ## serve on localhost:9999 until Ctrl-C; ARGS are options of graced(8)
	@$(BIN)/graced $(ARGS)

test: $(STAMP) check ## run every test that this machine can run; ARGS are options of pytest
	$(BIN)/python -m pytest -n $(JOBS) --dist loadgroup $(ARGS)

check: $(STAMP) ## ruff, mypy, and the words of docs/glossary.md
	$(BIN)/ruff check --quiet
	$(BIN)/ruff format --check --quiet
	$(BIN)/mypy --no-error-summary
	$(BIN)/python tests/docs/words.py

coverage: $(STAMP) ## which lines the unit and functional tests execute, child processes included
	rm -rf dist/coverage && mkdir -p dist/coverage
	-$(BIN)/python -m coverage run -m pytest $(or $(ARGS),tests/unit tests/functional)
	-$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report --sort=cover

deb: ## build the Debian packages into dist/
	packaging/build-deb

bench: ## compare with other servers, 15 minutes; QUICK=1: 2 minutes; ARGS are options of bench.py
	$(PYTHON) tests/benchmarks/bench.py $(if $(QUICK),--quick) $(ARGS)

soak: $(STAMP) ## 100,000 connections of each echo: does memory grow?
	$(BIN)/python tests/soak.py

clean: ## remove everything that the other targets have made
	rm -rf $(VENV) dist build daemon/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/.runs: pyproject.toml
	@packaging/install-into $(VENV) $(PYTHON) .
	@touch $@

$(STAMP): $(VENV)/.runs
	@packaging/install-into $(VENV) $(PYTHON) '.[dev]'
	@touch $@
