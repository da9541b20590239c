#!/usr/bin/env bash
# What happens to runs, done to real ones: kill -9, SIGTERM, several processes; prints a table.
set -euo pipefail

if [ "${1:-}" = --help ] || [ "${1:-}" = -h ]; then
    cat <<'END'
Usage: bash scripts/torture.sh [PART[=NUMBER] ...], half an hour on 2 cores for all:
  kills[=50]     so many kill -9 at random moments of one run, some in the middle of a save
  forks          5 kills of a short run, in forks of one process; part of the fast tests
  signals        SIGTERM in each of five phases of a run, with one and with two processes
  processes      one process with two devices against two with one, also switched in the middle
  goodput[=10]   so many minutes of training with one kill -9 a minute
END
    exit
fi
cd "$(dirname "$0")/.."
source scripts/environment.sh

prepare_environment dev requirements-dev.txt
PYTHONPATH=.:tests .venv/bin/python -m torture "$@"
