#!/usr/bin/env bash
# Runs the linters, the type checker and the tests in the virtual environment .venv.
set -euo pipefail

if [ "${1:-}" = --help ] || [ "${1:-}" = -h ]; then
    echo "Usage: bash scripts/test.sh [PYTEST_ARGUMENT ...]"
    echo "Runs ruff, mypy and the fast tests. For the slow tests: bash scripts/test.sh -m slow"
    exit
fi
cd "$(dirname "$0")/.."
source scripts/environment.sh

prepare_environment dev requirements-dev.txt
say "Format and lint (ruff)"
.venv/bin/ruff format --check .
.venv/bin/ruff check .
say "Types (mypy)"
.venv/bin/mypy
say "Tests (pytest)"
# Each worker takes 1 to 2 GB. Tests of one file stay together, to share what they have built.
.venv/bin/python -m pytest -n auto --maxprocesses=4 --dist worksteal "$@"
say "All passed after $SECONDS s."
