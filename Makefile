# Nothing is needed before but Python 3.11 or later, make and a network. `make help` lists the rest.
PYTHON ?= python3
WORKERS ?= 2
TESTS ?= tests
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help setup serve test check fix bench docs

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(READY) ## make .venv and install everything into it, once

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or later is needed: make PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

serve: setup ## start the server: make serve ARGS="--model-path MODEL"
	$(BIN)/espalier serve $(ARGS)

test: setup ## run the tests: make test TESTS=tests/cache
	$(BIN)/python -m pytest -n $(WORKERS) -m 'not slow and not network' $(TESTS)

check: setup ## format, lint, types, layers, house rules, docs; what CI runs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy -p espalier
	$(BIN)/lint-imports
	$(BIN)/python tools/check_house.py espalier
	$(BIN)/python tools/settings_page.py --check
	$(BIN)/python tools/sizes.py

fix: setup ## format, and mend what can be mended
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup ## the small benchmarks, on this machine
	@for file in benchmarks/micro/*.py; do echo "== $$file"; $(BIN)/python "$$file" || exit 1; done

docs: setup ## write docs/reference from the code
	$(BIN)/python tools/settings_page.py
