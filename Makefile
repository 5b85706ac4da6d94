# Everything runs in a virtual environment of its own, .venv, made on first use.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-slow lint bench clean help

help:                ## this list
	@grep -E '^[a-z-]+:.*##' Makefile | sed 's/:.*## /\t/' | expand -t 14

$(VENV)/run: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; make PYTHON=python3.12 $(MAKECMDGOALS) names another"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/dev: $(VENV)/run
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: $(VENV)/run    ## three companies on this machine: align, train, score, compare
	$(BIN)/python scenarios/car_insurance/demo.py $(DEMO)

test: $(VENV)/dev    ## the tests
	$(BIN)/python -m pytest -n auto -m 'not slow' $(TEST)

test-slow: $(VENV)/dev  ## the tests that take minutes, too
	$(BIN)/python -m pytest $(TEST)

lint: $(VENV)/dev    ## ruff, mypy --strict, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/dev   ## the benchmarks, see benchmarks/README.md
	$(BIN)/python benchmarks/paillier.py
	$(BIN)/python benchmarks/secureboost.py uniform --depth 5 --trees 3

clean:               ## remove the virtual environment and what was built
	rm -rf $(VENV) build *.egg-info
