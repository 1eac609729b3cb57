#!/usr/bin/env bash
# What `make test` runs: lint, types, import contracts, then every test with coverage.
set -euo pipefail
cd "$(dirname "$0")/.."
export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
make --no-print-directory lint
exec .venv/bin/python -m pytest --cov --cov-report=term --durations=15 "$@"
