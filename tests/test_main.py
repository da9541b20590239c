"""What the program loads before its first step."""

import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent.parent


def test_nothing_is_loaded_that_the_first_step_does_not_need(tmp_path):
    # Each takes 0.3 to 1.1 s, also where another library brings it in.
    program = """
import sys
import mixer.main, mixer.train_loop
from mixer.data import datasets, input_pipeline, preprocess
from mixer.reporting.metrics import MetricsWriter
from etils import epath

writer = MetricsWriter(epath.Path(sys.argv[1]), first_step=0, active=True)
writer.write(1, {"loss": 0.5})
writer.close()
assert "tensorflow" in sys.modules and "tensorboard" in sys.modules
slow = ("keras", "tf_keras", "matplotlib", "sklearn", "scipy.stats", "pandas", "clu.metric_writers")
print([name for name in slow if name in sys.modules])
"""
    environment = {key: value for key, value in os.environ.items() if key != "TF_USE_LEGACY_KERAS"}
    run = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=300,
    )
    assert run.stdout == "[]\n"
