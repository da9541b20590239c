#!/usr/bin/env bash
# From a fresh clone to a fine-tuned Mixer: creates the environment, pre-trains on the embedded
# digits, fine-tunes at twice the resolution, and reports both accuracies. Safe to run again:
# finished parts are skipped, and interrupted training resumes.
set -euo pipefail

if [ "${1:-}" = --help ] || [ "${1:-}" = -h ]; then
    echo "Usage: bash scripts/quickstart.sh [--config.KEY=VALUE ...]"
    echo "Creates the virtual environment .venv, trains the Mixer of configs/digits.py in"
    echo "runs/digits, and fine-tunes it at twice the resolution in runs/digits_32. Arguments"
    echo "override the config of the first training; the fine-tuning is then skipped."
    exit
fi
cd "$(dirname "$0")/.."
source scripts/environment.sh

pretrained=runs/digits
finetuned=runs/digits_32

test_accuracy() { # WORKDIR: prints the test top-1 in percent, from the last line of its metrics
    tail -n 1 "$1/metrics.jsonl" | sed -E 's|.*"test/top1": ([0-9.]+).*|\1|' |
        awk '{ printf "%.2f%%", 100 * $1 }'
}

prepare_environment run requirements.txt
say "Setup took $SECONDS s. Training a Mixer on 1,433 handwritten digits in $pretrained"
.venv/bin/python -m mixer.main --config=configs/digits.py --workdir=$pretrained "$@"
[ $# -eq 0 ] || exit 0
say "After $SECONDS s: fine-tuning it at 32 x 32 instead of 16 x 16 pixels in $finetuned"
.venv/bin/python -m mixer.main --config=configs/finetune.py:Ti/4,digits,32 --workdir=$finetuned \
    --config.init_from=$pretrained
say "Done after $SECONDS s. Test top-1: $(test_accuracy $pretrained) at 16 x 16 pixels," \
    "$(test_accuracy $finetuned) after fine-tuning at 32 x 32." \
    "See $pretrained/curves.png. To start over: rm -r $pretrained $finetuned"
