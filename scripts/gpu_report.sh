#!/usr/bin/env bash
# What a GPU does with our models beside other implementations: one table, in 10 minutes.
set -euo pipefail

if [ "${1:-}" = --help ] || [ "${1:-}" = -h ]; then
    cat <<'END'
Usage: bash scripts/gpu_report.sh [--FLAG=VALUE ...]

Installs requirements-gpu.txt in the virtual environment .venv, measures training and inference of
Mixer-S/16, B/16, L/16 and ViT-B/16 in bfloat16 on the first NVIDIA GPU beside plain flax, and
writes a Markdown table. Rows that do not fit in the time are named below it.

  --output=FILE     the table, a new file in the clone or elsewhere (default: gpu_report.md)
  --minutes=NUMBER  time for all, without the installation (default: 10)
  --peers           also installs torch and timm, and measures timm, eager and compiled
  --cifar=DATASET   cifar10 or folder:PATH: also trains configs/cifar.py, in at least half of the
                    time, until 90% of the test images are right; says how far it came
  --device=cpu      with --miniature: tries all of it without a GPU, with small models
  --miniature       small models and short windows
END
    exit
fi
cd "$(dirname "$0")/.."
source scripts/environment.sh

name=gpu requirements=requirements-gpu.txt peers=
for argument in "$@"; do
    case "$argument" in
        --device=cpu) name=run requirements=requirements.txt ;;
        --peers | --peers=true) peers=yes ;;
    esac
done
prepare_environment $name $requirements >&2 # the table alone goes to stdout
log=.venv/install_peers.log
if [ "$peers" ]; then
    say "Installing torch and timm (the output goes to $log)" >&2
    .venv/bin/python -m pip install torch timm -c requirements.lock >"$log" 2>&1 ||
        fail "the installation of torch and timm failed; see $log, or leave out --peers."
fi
say "Setup took $SECONDS s." >&2
exec .venv/bin/python -m mixer.benchmark.gpu_report "$@"
