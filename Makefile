# The commands of the README.  Everything a person needs beyond Debian's python3, python3-venv,
# make and git goes into .venv, from PyPI.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready

.PHONY: run test check deb bench soak clean

run: $(VENV)/.runs
	$(BIN)/graced $(ARGS)

test: $(STAMP) check
	$(BIN)/python -m pytest $(ARGS)

check: $(STAMP)
	$(BIN)/ruff check --quiet
	$(BIN)/ruff format --check --quiet
	$(BIN)/mypy --no-error-summary

deb:
	packaging/build-deb

bench:
	$(PYTHON) tests/benchmarks/bench.py $(if $(QUICK),--quick)

soak: $(STAMP)
	$(BIN)/python tests/soak.py

clean:
	rm -rf $(VENV) dist build daemon/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/.runs: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable .
	touch $@

$(STAMP): $(VENV)/.runs
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@
