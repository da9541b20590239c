"""Stands in for the program: takes its flags and writes what a sweep reads.

The tests with it are of the orchestration only. A learning rate of 10 diverges, 20 waits for an
interrupt, 30 is refused, and the accuracy falls with the distance from 0.01.
"""

import json
import math
import pathlib
import sys
import time

flags = dict(argument.removeprefix("--").split("=", 1) for argument in sys.argv[1:])
workdir = pathlib.Path(flags["workdir"])
rate = float(flags["config.optimizer.learning_rate"])
seed = int(flags["config.seed"])
print(f"started with {rate} and {seed}")
if rate == 30:
    sys.exit("error: Expected another learning rate.")
(workdir / "config.json").write_text("{")  # as a kill could leave it
if rate == 10:
    sys.exit("FloatingPointError: Step 2 is not finite: loss nan.")
if rate == 20:
    try:
        (workdir / "waits").touch()
        time.sleep(20)
        (workdir / "slept").touch()
    except KeyboardInterrupt:
        sys.exit("interrupted")
top1 = 0.9 - abs(math.log10(rate) + 2) / 10
lines = [
    {"step": 2, "minival/top1": 1.0, "test/top1": 1.0},
    {"step": 4, "loss": 0.5},
    {"step": 4, "minival/top1": top1, "test/top1": top1 - 0.1 + seed / 100},
]
text = "".join(json.dumps(line) + "\n" for line in lines)
(workdir / "metrics.jsonl").write_text(text)
