"""The cloud of tests/launch: a folder, played by fake_gcloud.py.

What goes over ssh is really run, in one folder per worker, with a stand-in for Python.
"""

import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent.parent.parent
FLAGS = ["--name=mixer-b16", "--zone=europe-west4-a", "--accelerator_type=v3-32"]
PROGRAM = ["--config=configs/digits.py", "--workdir=gs://bucket/run 1"]
OVERRIDES = [
    "--config.train_split=train[:99%]",
    "--config.train_crop.area=(0.3, 1.0)",
    '--config.note=it\'s "$HOME" & `x`;  #*\\',
]
PLACE = ["--zone=europe-west4-a", "--quiet"]
SSH = ["--ssh-flag=-oServerAliveInterval=20", "--ssh-flag=-oConnectTimeout=20", *PLACE]

# Answers like a Python 3.12 whose pip installs nothing. For mixer.main it runs $FAKE_CLOUD/program
# and leaves the arguments in the NUL-separated file arguments.WORKER.
PYTHON = r"""#!/bin/bash
case "$1 $2" in
"-c "*print*) echo 3.12 ;;
"-m venv") mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
"-m pip") echo "$*" >>"$FAKE_CLOUD/pip.$WORKER"
    [ ! -e "$FAKE_CLOUD/offline" ] ;;
"-m mixer.main") shift 2
    printf '%s\0' "$@" >"$FAKE_CLOUD/arguments.$WORKER"
    echo >>"$FAKE_CLOUD/starts.$WORKER"
    start=$(wc -l <"$FAKE_CLOUD/starts.$WORKER")
    . "$FAKE_CLOUD/program" ;;
esac
"""


class Cloud:
    def __init__(self, clone: pathlib.Path, folder: pathlib.Path):
        self.clone, self.folder = clone, folder
        programs = folder / "bin"
        programs.mkdir()
        fake = f'#!/bin/sh\nexec {sys.executable} -IS {ROOT}/tests/launch/fake_gcloud.py "$@"\n'
        for name, text in (("gcloud", fake), ("python", PYTHON)):
            (programs / name).write_text(text)
            (programs / name).chmod(0o755)
        self.environment = {
            **os.environ,
            "PATH": f"{programs}:{os.environ['PATH']}",
            "PYTHON": str(programs / "python"),
            "FAKE_CLOUD": str(folder),
            "MIXER_TPU_POLL_SECONDS": "0.02",
        }
        self.play("echo trained; exit 0")

    def play(
        self, program: str, *, workers: int = 1, answers: dict[str, list[str]] | None = None
    ) -> None:
        """What the program does on every worker (`$start` counts), and what gcloud answers."""
        script = {"workers": workers, **(answers or {})}
        (self.folder / "script.json").write_text(json.dumps(script))
        (self.folder / "program").write_text(program)

    def launch(self, *arguments: str, **keywords) -> subprocess.CompletedProcess:
        return subprocess.run(
            ["bash", "scripts/launch_tpu.sh", *arguments],
            **{"cwd": self.clone, "env": self.environment, "timeout": 60, **keywords},
            capture_output=True,
            text=True,
        )

    def calls(self) -> list[list[str]]:
        """The recorded calls from the last look on, without "compute tpus" in front."""
        path = self.folder / "calls.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        path.write_text("")
        calls = [json.loads(line) for line in lines]
        assert all(call[:2] == ["compute", "tpus"] for call in calls)
        return [call[2:] for call in calls]

    def verbs(self) -> list[str]:
        """What was done: create, delete, scp and the worker's commands."""
        verbs = []
        for call in self.calls():
            command = [word for word in call if word.startswith("--command=")]
            if command:
                verbs.append(command[0].split("tpu_worker.sh ")[-1].split()[0])
            elif call[1] != "describe":
                verbs.append(" ".join(call[:2]))
        return verbs

    def arguments(self, worker: int = 0) -> list[str]:
        return (self.folder / f"arguments.{worker}").read_text().split("\0")[:-1]
