#!/usr/bin/env bash
# Injects faults into real training runs and checks that they recover; prints a table.
set -euo pipefail

if [ "${1:-}" = --help ] || [ "${1:-}" = -h ]; then
    cat <<'END'
Usage: bash scripts/torture.sh [PART[=NUMBER] ...]

Injects faults into real training runs and checks that they recover. All parts together take
40 minutes on 2 cores. Example: bash scripts/torture.sh kills=10 signals

  kills[=50]     kill -9 this many times at random moments of one run, including during saves
  forks[=5]      kills of a short run, in forks of one process; 3 are part of the slow tests
  signals        SIGTERM, SIGHUP and SIGUSR1 in the phases of a run, with one and two processes
  pipes          the reader of the output ends (SIGPIPE); the terminal is hung up (SIGHUP)
  stops          SIGSTOP for three times the watchdog's limit, then SIGCONT
  unreadable     no permission for the checkpoints, or parts of one
  hangs          a pipe that nobody writes to, in each phase of a run
  processes      one process with two devices against two with one, also switched mid-run
  goodput[=10]   train for this many minutes, with one kill -9 per minute
END
    exit
fi
cd "$(dirname "$0")/.."
source scripts/environment.sh

prepare_environment dev requirements-dev.txt
PYTHONPATH=.:tests .venv/bin/python -m torture "$@"
