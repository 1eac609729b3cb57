# Every command sets up what it needs: `.venv` in the checkout with metarec and its development tools in it.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export RAY_AUTH_MODE ?= token
export RAY_USAGE_STATS_ENABLED ?= 0

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-fast lint bench protos clean

help:  ## Show the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(VENV)/.installed  ## Create .venv with metarec and the development tools in it

$(VENV)/.installed: pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing metarec into $(VENV) (a few minutes the first time)"
	@$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

demo: setup  ## Run the main job on MovieLens-100K: fetch, train, evaluate, serve, adapt (under 10 minutes)
	@$(BIN)/python scripts/demo.py

test: setup  ## Lint, type-check and run every test, with coverage (under 25 minutes)
	@bash scripts/test.sh

test-fast: setup  ## Run the unit and contract tests only (about a minute)
	@$(BIN)/python -m pytest tests/unit tests/contract -q

lint: setup  ## ruff, mypy and the import contracts
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

bench: setup  ## Run the benchmarks of bench/ that need no data
	@for script in bench/import_memory.py bench/meta_step.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done
	@echo "with data: bench/learners.py --data DIR --out DIR, and python -m bench.accuracy --help"

protos: setup  ## Generate metarec/v1 from protos/
	@$(BIN)/python scripts/generate_protos.py

clean:  ## Remove what the commands above made, except .venv
	@rm -rf demo build .mypy_cache .ruff_cache .pytest_cache .coverage
