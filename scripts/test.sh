#!/usr/bin/env bash
# What `make test` runs: the Debian packages that tests need, lint, types, import contracts, then every test with coverage.
set -euo pipefail
cd "$(dirname "$0")/.."
export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0

# The feature store is tested on Redis too. RUNLEVEL=1 keeps the package from starting a server of its own.
if ! command -v redis-server >/dev/null; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "installing redis-server for the tests of the online store"
        { apt-get update -qq && RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends redis-server; } \
            >/dev/null 2>&1 || echo "REDIS NOT TESTED: redis-server could not be installed"
    else
        echo "REDIS NOT TESTED: no redis-server here, and no root to install it"
    fi
fi

make --no-print-directory lint
exec .venv/bin/python -m pytest --cov --cov-report=term --durations=15 "$@"
