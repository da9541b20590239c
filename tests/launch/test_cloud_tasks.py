"""The SkyPilot tasks of configs/cloud: what they run, and, where it is installed, SkyPilot's view.

The commands are really run by bash, with stand-ins for gcloud (a folder is the bucket) and Python
(its arguments are recorded).
"""

import importlib.util
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest
import yaml

from mixer.config import check_config
from mixer.rehearsal.topology import parse_slice
from mixer.runtime.command import read_config

ROOT = pathlib.Path(__file__).parent.parent.parent
TASKS = sorted((ROOT / "configs/cloud").glob("*.yaml"))
DATA = "--config.data_dir=gs://bucket/tensorflow_datasets"
RUNTIMES = {"v5e": "v2-alpha-tpuv5-lite", "v6e": "v2-alpha-tpuv6e"}  # as in scripts/tpu_flags.sh

PYTHON = """#!/bin/bash
printf '%s\\n' "$@" >>"$RECORD"
echo -- >>"$RECORD"
for argument; do case $argument in --workdir=runs/*)
    mkdir -p "${argument#--workdir=}" && echo 1 >>"${argument#--workdir=}/done" ;;
esac; done
eval "$PLAY"
"""
GCLOUD = """#!/bin/bash
[ "$1" = storage ] || exit 9
[ ! -e "$BUCKET_FOLDER/offline" ] || exit 1
source=${@: -2:1} target=${@: -1}
source=${source/gs:\\/\\/bucket/$BUCKET_FOLDER} target=${target/gs:\\/\\/bucket/$BUCKET_FOLDER}
case $2 in
cp) mkdir -p "$(dirname "$target")" && cp "$source" "$target" ;;
rsync) [ -d "$source" ] || exit 1
    mkdir -p "$target" && cp -r "$source/." "$target" ;;
*) exit 9 ;;
esac
"""


def task(name: str) -> dict:
    return yaml.safe_load((ROOT / f"configs/cloud/{name}.yaml").read_text())


@pytest.fixture
def machine(tmp_path):
    """Runs the `run` of a task as a host of a slice would; returns code, output and commands."""
    home = tmp_path / "sky_workdir"
    shutil.copytree(ROOT / "scripts", home / "scripts")
    for path, text in ((home / ".venv/bin/python", PYTHON), (tmp_path / "bin/gcloud", GCLOUD)):
        path.parent.mkdir(parents=True)
        path.write_text(text)
        path.chmod(0o755)
    (tmp_path / "bucket").mkdir()

    def run(name: str, *, play: str = "", **envs: str) -> tuple[int, str, list[list[str]]]:
        record = tmp_path / "record"
        record.unlink(missing_ok=True)
        found = task(name)
        done = subprocess.run(
            ["bash", "-c", found["run"]],
            cwd=home,
            env={
                **os.environ,
                **{key: value or "" for key, value in found["envs"].items()},
                **{"BUCKET": "bucket", "RECORD": str(record), "PLAY": play},
                **{"PATH": f"{tmp_path}/bin:{os.environ['PATH']}"},
                **{"BUCKET_FOLDER": str(tmp_path / "bucket"), **envs},
            },
            capture_output=True,
            text=True,
            timeout=60,
        )
        text = record.read_text() if record.exists() else ""
        commands = [part.strip().splitlines() for part in text.split("\n--\n") if part.strip()]
        return done.returncode, done.stdout + done.stderr, commands

    return run


def test_there_are_tasks_for_what_is_trained():
    assert [path.stem for path in TASKS] == ["finetune", "pretrain", "reproduce", "sweep"]


@pytest.mark.parametrize("path", TASKS, ids=lambda path: path.stem)
def test_a_task(path):
    found = yaml.safe_load(path.read_text())
    assert found["workdir"] == "."
    assert found["setup"] == "bash scripts/tpu_worker.sh setup\n"
    used = set(re.findall(r"\$([A-Z_]+)", found["run"]))
    assert used == found["envs"].keys()
    assert found["envs"]["BUCKET"] is None  # has to be given
    resources = found["resources"]
    assert resources["use_spot"] is True
    assert resources["job_recovery"]["recover_on_exit_codes"] == [75]
    for choice in resources["any_of"]:
        accelerator = parse_slice(choice["accelerators"].removeprefix("tpu-"))
        runtime = choice["accelerator_args"]["runtime_version"]
        assert runtime == RUNTIMES[accelerator.generation]
        # Sweeps start other programs, which works on one host alone.
        assert path.stem == "pretrain" or accelerator.chips == 8
    if "CONFIG" in found["envs"]:
        check_config(read_config(str(ROOT / found["envs"]["CONFIG"])))


@pytest.mark.parametrize("name", ["pretrain", "finetune"])
def test_training_goes_on_in_the_bucket(machine, name):
    envs = task(name)["envs"]
    overrides = {"OVERRIDES": "--config.seed=1 --config.log_every=9"}
    code, shown, commands = machine(name, play="echo trained", **overrides)
    assert (code, shown) == (0, "trained\n")
    assert commands == [
        [
            *("-m", "mixer.main", f"--config={envs['CONFIG']}"),
            *(f"--workdir=gs://bucket/runs/{envs['RUN']}", DATA),
            *("--config.seed=1", "--config.log_every=9"),
        ]
    ]
    saved = 'echo "SIGTERM: saving step 7, then ending; run the same command to go on."'
    assert machine(name, play=saved)[0] == 75  # SkyPilot starts it again
    assert machine(name, play="exit 3")[0] == 3


def test_a_sweep_is_kept_in_the_bucket(machine, tmp_path):
    run = task("sweep")["envs"]["RUN"]
    expected = ["scripts/sweep.py", "--config=configs/finetune.py:B/16,cifar10"]
    expected += [f"--workdir=runs/{run}", DATA]
    code, _, commands = machine("sweep")
    assert (code, commands) == (0, [expected])
    kept = tmp_path / "bucket/runs" / run / "done"
    assert kept.read_text() == "1\n"
    shutil.rmtree(tmp_path / "sky_workdir/runs")  # a new machine
    assert machine("sweep", play="exit 130")[0] == 75
    assert kept.read_text() == "1\n1\n"
    assert machine("sweep", play="exit 5")[0] == 5


def test_a_bucket_that_cannot_be_reached_is_not_taken_for_an_empty_one(machine, tmp_path):
    (tmp_path / "bucket/offline").touch()
    code, _, commands = machine("sweep")
    assert code != 0
    assert commands == []


def test_a_folder_is_copied_while_the_command_runs(machine, tmp_path):
    kept = tmp_path / "bucket/runs/b16-cifar10-sweep/done"
    wait = f"for _ in $(seq 200); do [ ! -e {kept} ] || exit 0; sleep 0.1; done; exit 4"
    assert machine("sweep", play=wait, MIXER_BUCKET_SECONDS="1")[0] == 0


def test_reproduce_shows_its_commands_and_runs_them(machine):
    code, _, commands = machine("reproduce")
    assert code == 0
    common = ["table3", "--rows=imagenet/Mixer-B/16", "--workdir=runs/paper"]
    common += ["--pretrained=published", "--data_dir=gs://bucket/tensorflow_datasets"]
    assert commands == [
        ["scripts/reproduce.py", "plan", *common, "--print_commands"],
        ["scripts/reproduce.py", "run", *common],
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ["scripts/reproduce.py", "plan", "table3", "--rows=imagenet/Mixer-B/16"]
        + ["--pretrained=published", "--data_dir=gs://bucket/tensorflow_datasets"],
        ["scripts/sweep.py", "--config=configs/finetune.py:B/16,cifar10", DATA],
    ],
)
def test_the_real_programs_take_these_flags(arguments, tmp_path):
    done = subprocess.run(
        [sys.executable, *arguments, f"--workdir={tmp_path}/runs", "--print_commands"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert all(line.startswith("python ") for line in done.stdout.splitlines())
    assert "--config=configs/finetune.py:B/16,cifar10" in done.stdout


# SkyPilot downloads its catalogue of prices; so that nothing is, one for this test, not the real.
CATALOGUE = """InstanceType,vCPUs,MemoryGiB,AcceleratorName,AcceleratorCount,GpuInfo,Region,\
AvailabilityZone,Price,SpotPrice,Arch,Generation
n1-highmem-8,8.0,52.0,,,,us-east5,us-east5-b,0.5,0.1,x86_64,1
,,,tpu-v6e-16,1.0,tpu-v6e-16,us-east5,us-east5-b,40.0,20.0,,
,,,tpu-v6e-8,1.0,tpu-v6e-8,us-east5,us-east5-b,20.0,10.0,,
,,,tpu-v5litepod-32,1.0,tpu-v5litepod-32,us-east5,us-east5-b,40.0,16.0,,
,,,tpu-v5litepod-8,1.0,tpu-v5litepod-8,us-east5,us-east5-b,10.0,4.0,,
"""
DRY_RUN = """
import sys, sky, yaml
from sky import check, clouds, optimizer
check.get_cached_enabled_clouds_or_refresh = lambda *_, **__: [clouds.GCP()]
task = sky.Task.from_yaml_config(yaml.safe_load(open(sys.argv[1])), [("BUCKET", "bucket")])
task.validate()
with sky.Dag() as dag:
    dag.add(task)
optimizer.Optimizer.optimize(dag, quiet=True)
best = task.best_resources
print(*best.accelerators, best.instance_type, best.use_spot, best.get_cost(3600), best.job_recovery)
"""


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("sky") is None, reason="skypilot is not installed")
@pytest.mark.parametrize("path", TASKS, ids=lambda path: path.stem)
def test_skypilot_reads_a_task_and_finds_the_cheapest_slice(path, tmp_path):
    catalogue = tmp_path / ".sky/catalogs/v8/gcp/vms.csv"
    catalogue.parent.mkdir(parents=True)
    catalogue.write_text(CATALOGUE)
    done = subprocess.run(
        [sys.executable, "-c", DRY_RUN, str(path)],
        cwd=ROOT,
        env={**os.environ, "HOME": str(tmp_path), "SKYPILOT_DISABLE_USAGE_COLLECTION": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    chips, cost = ("32", "16.0") if path.stem == "pretrain" else ("8", "4.0")
    recovery = "{'strategy': 'EAGER_NEXT_REGION', 'recover_on_exit_codes': [75]}"
    assert done.stdout.splitlines()[-1] == f"tpu-v5litepod-{chips} TPU-VM True {cost} {recovery}"
