"""The programs as commands of an installation: mixer-train is `python -m mixer.main`, and so on."""

import pathlib
import runpy
import sys

from mixer.shipped import shipped

SCRIPTS = {  # command -> the file of the repository that it runs
    "mixer-benchmark": "scripts/benchmark.py",
    "mixer-convert": "scripts/convert_weights.py",
    "mixer-demo": "scripts/demo.py",
    "mixer-draw": "scripts/draw_weights.py",
    "mixer-evaluate": "scripts/evaluate.py",
    "mixer-export": "scripts/export.py",
    "mixer-predict": "scripts/predict.py",
    "mixer-prepare": "scripts/prepare_dataset.py",
    "mixer-rehearse": "scripts/rehearse_tpu.py",
    "mixer-reproduce": "scripts/reproduce.py",
    "mixer-sweep": "scripts/sweep.py",
    "mixer-vtab": "scripts/vtab.py",
}


def run() -> None:
    """Runs the program whose name this process has, as the main module: --help shows its flags."""
    name = pathlib.Path(sys.argv[0]).stem
    if name == "mixer-train":
        runpy.run_module("mixer.main", run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(str(shipped(SCRIPTS[name])), run_name="__main__")
