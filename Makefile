# Everything runs in a virtual environment of its own, .venv, made on first use from the versions and digests in
# requirements/: wheels only, so that nothing is built and nothing of a package runs while it is installed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet install
LOCKED := --only-binary :all: --require-hashes --requirement
CLONE := --no-index --no-deps --no-build-isolation --editable .

# .venv is kept below 750 MB: without the packages' own tests, without the setuptools that older Pythons put
# into every environment, and with the bytecode of the modules that vfl imports, not of all there are.
SLIM := find $(VENV)/lib -type d -name tests -prune -exec rm -r {} + ; \
  $(BIN)/python -m pip --quiet --quiet uninstall --yes setuptools
COMPILE := PYTHONDONTWRITEBYTECODE= $(BIN)/python -c 'import lightgbm, pkgutil, vfl; \
  [__import__(module.name) for module in pkgutil.walk_packages(vfl.__path__, "vfl.") \
   if not module.name.startswith(("vfl.online.", "vfl.monitor.", "vfl.console."))]'  # which take packages of extras

# With bytecode kept: it takes seconds to make, in every process that the tests start. A worker begins with
# neighbours, which share what their module has trained, and takes over from the other at the end.
PYTEST = PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest

# Which of the folders of scenarios/ `make demo` runs.
SCENARIO ?= car_insurance

# Of `make lock`: where the tool lies, which versions to take, and what must be installable from the result.
UV := build/lock/bin/uv
LOCK ?= --upgrade
LOCKING = UV_CUSTOM_COMPILE_COMMAND="make lock" $(UV) pip compile --quiet --no-progress --universal \
  --generate-hashes --python-version 3.11 $(LOCK)
IMAGE_EXTRAS := --extra excel --extra online --extra otel --extra postgresql --extra report
PLATFORMS := x86_64-manylinux_2_28 aarch64-manylinux_2_28 aarch64-apple-darwin
PYTHONS := 3.11 3.12 3.13 3.14

.PHONY: demo test test-slow lint sbom licences docs reference lock known-answers bench clean help

help:                ## this list
	@grep -E '^[a-z-]+:.*##' Makefile | sed 's/:.*## /\t/' | expand -t 14

$(VENV)/run: pyproject.toml requirements/run.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' || \
	  { echo "Python 3.11 to 3.14 is needed; make PYTHON=python3.12 $(MAKECMDGOALS) names another"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) --no-compile $(LOCKED) requirements/run.txt
	$(PIP) $(CLONE)
	$(SLIM)
	$(COMPILE)
	@touch $@

$(VENV)/dev: $(VENV)/run requirements/dev.txt
	$(PIP) $(LOCKED) requirements/dev.txt
	@touch $@

demo: $(VENV)/run    ## several companies on this machine: align, train, score, compare; SCENARIO=retail, disease_risk: others
	@test -f scenarios/$(SCENARIO)/demo.py || \
	  { echo "no scenario $(SCENARIO): SCENARIO is one of $(notdir $(wildcard scenarios/*))"; exit 1; }
	$(BIN)/python scenarios/$(SCENARIO)/demo.py $(DEMO)

test: $(VENV)/dev    ## the tests
	$(PYTEST) -n auto --dist worksteal -m 'not slow' $(TEST)

test-slow: $(VENV)/dev  ## the tests that take minutes, too, and the demos of the other scenarios
	$(PYTEST) $(TEST)
	$(MAKE) demo SCENARIO=retail DEMO="--weeks 12 --trees 3 --relay --work build/demo-retail"
	$(MAKE) demo SCENARIO=disease_risk DEMO="--patients 2500 --stays 3000 --trees 3 --work build/demo-disease_risk"

lint: $(VENV)/dev    ## ruff, mypy --strict, import-linter, known vulnerabilities
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python .ci/audit.py requirements/dev.txt

sbom: $(VENV)/dev    ## build/sbom: what an install and the container's image hold, as CycloneDX
	@mkdir -p build/sbom
	for lock in run image; do $(BIN)/cyclonedx-py requirements --pyproject pyproject.toml --mc-type application \
	  --output-reproducible --of JSON -o build/sbom/$$lock.cdx.json requirements/$$lock.txt || exit 1; done

licences: $(VENV)/dev  ## licences of what an install and the container's image bring
	$(BIN)/python .ci/licences.py requirements/run.txt requirements/image.txt

docs: $(VENV)/dev    ## the documentation as a site, in build/site/html; fails on a link that leads nowhere
	$(BIN)/python docs/site/stage.py build/site/pages
	$(BIN)/zensical build --strict --clean

reference: $(VENV)/dev  ## write what repeats the code: tables of settings and others in docs/, docstrings of estimators
	$(BIN)/python docs/site/made_tables.py

lock:                ## write requirements/ anew, by pyproject.toml; see CONTRIBUTING.md
	$(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip --disable-pip-version-check --quiet install $(LOCKED) requirements/lock.txt
	$(LOCKING) --group lock --output-file requirements/lock.txt
	$(LOCKING) pyproject.toml --extra dev --group build --output-file requirements/dev.txt
	$(LOCKING) pyproject.toml --extra report --group build --constraint requirements/dev.txt \
	  --output-file requirements/run.txt
	$(LOCKING) pyproject.toml $(IMAGE_EXTRAS) --group build --constraint requirements/dev.txt \
	  --output-file requirements/image.txt
	for platform in $(PLATFORMS); do for version in $(PYTHONS); do \
	  $(UV) pip install --quiet --dry-run --target build/lock/none --python-platform $$platform \
	    --python-version $$version --only-binary :all: --require-hashes --requirements requirements/dev.txt || \
	    { echo "no wheels for Python $$version on $$platform"; exit 1; }; \
	done; done

bench: $(VENV)/dev   ## the benchmarks, see benchmarks/README.md
	$(BIN)/python benchmarks/paillier.py
	$(BIN)/python benchmarks/secureboost.py uniform --depth 5 --trees 3

known-answers: $(VENV)/dev  ## tests/known_answers anew, by the slow reference
	$(BIN)/python -m tests.reference.write

clean:               ## remove the virtual environment and what was built
	rm -rf $(VENV) build .cache *.egg-info
