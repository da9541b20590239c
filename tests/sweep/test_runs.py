"""Orchestration with a stand-in for the program (stand_in.py), then a real sweep."""

import json
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import time

import absl.flags
import pytest
from cases import slow_after
from children import one_device, read_line
from etils import epath

from mixer.reporting.metrics import read_metrics
from mixer.runtime.workdir_lock import folder_lock
from mixer.sweep.runs import read_outcomes, run_sweep

ROOT = pathlib.Path(__file__).parent.parent.parent
STAND_IN = (sys.executable, str(pathlib.Path(__file__).parent / "stand_in.py"))
LOW, MIDDLE, HIGH, WILD = (f"learning_rate={rate}" for rate in (0.001, 0.01, 0.1, 10))


def starts(workdir: pathlib.Path) -> dict[str, int]:
    """Returns how often each run was started."""
    logs = workdir.glob("*/*/log.txt")
    return {str(p.parent.relative_to(workdir)): p.read_text().count("started") for p in logs}


def test_a_sweep_from_its_start_to_its_report(make_sweep, capsys):
    sweep = make_sweep(0.1, 0.01, 10)
    outcomes = run_sweep(sweep, read_outcomes(sweep), program=STAND_IN)
    assert outcomes.keys() == {(HIGH, 0), (MIDDLE, 0), (WILD, 0), (MIDDLE, 1), (MIDDLE, 2)}
    assert outcomes[WILD, 0] is None
    assert outcomes[MIDDLE, 2] == {"step": 4, "minival/top1": 0.9, "test/top1": 0.9 - 0.1 + 0.02}
    shown = capsys.readouterr().out
    assert f"Run 1 of 5: {sweep.workdir}/{HIGH}/seed=0/log.txt" in shown
    assert "minival/top1 80.00%, test/top1 70.00%, in 0:00:0" in shown
    assert "Run 2 of 5, ETA 0:00:0" in shown
    assert "failed, exit code 1:\n    started with 10.0 and 0\n    FloatingPointError: S" in shown
    summary = json.loads((sweep.workdir / "sweep.json").read_text())
    assert summary["chosen"] == MIDDLE
    assert summary["combinations"][1]["mean"]["test/top1"] == pytest.approx(0.81)
    assert summary["combinations"][1]["std"]["test/top1"] == pytest.approx(0.01)


def test_what_is_finished_is_not_run_again(make_sweep):
    sweep = make_sweep(0.1, 0.01, 10)
    first = run_sweep(sweep, {}, program=STAND_IN)
    # Killed after an evaluation that was not the last; a line that a kill has cut short.
    metrics = sweep.folder((HIGH, 0)) / "metrics.jsonl"
    metrics.write_text(metrics.read_text().splitlines()[0] + '\n{"step": 4, "minival/t')
    read = read_outcomes(sweep)
    assert read.keys() == first.keys() - {(HIGH, 0), (WILD, 0)}
    assert run_sweep(sweep, read, program=STAND_IN) == first
    assert starts(sweep.workdir) == {
        f"{HIGH}/seed=0": 2,
        f"{WILD}/seed=0": 2,  # what has failed is tried again
        **{f"{MIDDLE}/seed={seed}": 1 for seed in (0, 1, 2)},
    }


def test_a_larger_grid_and_more_seeds_go_on(make_sweep):
    run_sweep(make_sweep(0.1, seeds=(0,)), {}, program=STAND_IN)
    sweep = make_sweep(0.1, 0.01, seeds=(0, 1))
    outcomes = run_sweep(sweep, read_outcomes(sweep), program=STAND_IN)
    assert outcomes.keys() == {(HIGH, 0), (MIDDLE, 0), (MIDDLE, 1)}
    assert set(starts(sweep.workdir).values()) == {1}


def test_another_sweep_over_the_folder_is_refused(make_sweep, config):
    sweep = make_sweep(0.1, 0.01)
    run_sweep(sweep, {}, program=STAND_IN)
    with pytest.raises(
        ValueError, match="contains runs that are not part of .*\n  learning_rate=0.1"
    ):
        read_outcomes(make_sweep(0.01))
    with pytest.raises(
        ValueError, match="not part of this sweep:\n  learning_rate=0.01/seed=2\nExp"
    ):
        read_outcomes(make_sweep(0.1, 0.01, seeds=(0, 1)))
    # What the program wrote there.
    path = sweep.folder((MIDDLE, 1)) / "config.json"
    path.write_text(json.dumps(sweep.run_config((MIDDLE, 1))))
    assert len(read_outcomes(sweep)) == 4
    config |= {"loss": "sigmoid", "init_from": "b.npz"}
    changes = "init_from: '' before, 'b.npz' now"
    with pytest.raises(ValueError, match=f"loss: 'softmax' before, 'sigmoid' now\n  {changes}\n"):
        read_outcomes(make_sweep(0.1, 0.01))


def script(*flags: str, program: tuple[str, ...] | None = STAND_IN) -> list[str]:
    """Returns the command of scripts/sweep.py, with another program to run."""
    replaced = (
        "import runpy, sys; from mixer.sweep import runs; "
        f"runs.run_sweep.__kwdefaults__['program'] = {program!r}; "
        f"sys.argv[0] = {str(ROOT / 'scripts/sweep.py')!r}; "
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    start = ["-c", replaced] if program else [str(ROOT / "scripts/sweep.py")]
    return [sys.executable, *start, *flags]


def run(*command: str, cwd: pathlib.Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        command, cwd=cwd, env=environment(), capture_output=True, text=True, timeout=300
    )


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": one_device()}


@pytest.fixture
def config_file(tmp_path) -> str:
    path = tmp_path / "c.py"
    path.write_text("""
from configs import digits

def get_config(rate="0.03"):
    config = digits.get_config()
    del config.num_epochs
    config.num_steps = 4
    config.train_split = "train[:90%]"
    config.eval_splits = {"minival": "train[90%:]", "test": "test"}
    config.optimizer.learning_rate = float(rate)
    return config

SWEEP = {"optimizer.learning_rate": (0.1, 0.01)}
""")
    return f"{path}:0.5"


@pytest.mark.slow
def test_the_script_prints_commands_that_a_later_sweep_reports(config_file, tmp_path):
    flags = [f"--config={config_file}", "--workdir=w w", "--config.num_steps=4"]
    printed = run(*script(*flags, "--print_commands"), cwd=tmp_path)
    assert not (tmp_path / "w w").exists()
    assert printed.stdout.splitlines() == [
        f"python -m mixer.main --config={config_file} '--workdir=w w/{name}/seed=0' "
        f"--config.num_steps=4 --config.optimizer.learning_rate={rate} --config.seed=0"
        for name, rate in ((HIGH, 0.1), (MIDDLE, 0.01))
    ]
    for lines in (printed.stdout, None):  # the grid, the other seeds
        lines = lines or run(*script(*flags, "--print_commands"), cwd=tmp_path).stdout
        for line in lines.splitlines():
            command = [*STAND_IN, *shlex.split(line)[3:]]
            (tmp_path / command[3].removeprefix("--workdir=")).mkdir(parents=True)
            assert run(*command, cwd=tmp_path).returncode == 0
    reported = run(*script(*flags), cwd=tmp_path)
    assert reported.returncode == 0
    assert "Runs finished: 4, to do: 0." in reported.stdout
    assert "learning_rate=0.01. Its test/top1: 81.00% ± 1.00% (mean" in reported.stdout
    assert starts(tmp_path / "w w") == {}


def test_a_failed_run_ends_the_sweep_non_zero(config_file, tmp_path):
    flags = ["--workdir=w", "--grid=optimizer.learning_rate=10,0.01", "--seeds=0"]
    result = run(*script(f"--config={config_file}", *flags), cwd=tmp_path)
    assert result.returncode == 1
    assert "| learning_rate=10.0 | -" in result.stdout
    assert "80.00% ± n/a (mean ± standard deviation over 1 of 1 seeds)" in result.stdout
    assert "error: Failed runs: w/learning_rate=10.0/seed=0" in result.stderr


def test_a_first_run_that_is_refused_starts_no_other(config_file, tmp_path):
    flags = ["--workdir=w", "--grid=optimizer.learning_rate=30,0.1,0.01", "--seeds=0,1"]
    result = run(*script(f"--config={config_file}", *flags), cwd=tmp_path)
    assert result.returncode == 1
    assert (
        "failed, exit code 1:\n    started with 30.0 and 0\n    error: Expected another learn"
        in (result.stdout)
    )
    assert "the other 3 runs are not started. Correct what w/learning_rate=30.0/" in result.stderr
    assert starts(tmp_path / "w") == {"learning_rate=30.0/seed=0": 1}
    # One that is refused after another has worked is of its own kind.
    flags[1] = "--grid=optimizer.learning_rate=0.1,30"
    result = run(*script(f"--config={config_file}", *flags, "--workdir=v"), cwd=tmp_path)
    assert "error: Failed runs: v/learning_rate=30.0/seed=0" in result.stderr
    assert starts(tmp_path / "v") == {
        f"{HIGH}/seed=0": 1,
        f"{HIGH}/seed=1": 1,
        "learning_rate=30.0/seed=0": 1,
    }


def test_one_sweep_at_a_time_and_a_run_at_work_elsewhere_is_waited_for(make_sweep, capsys):
    sweep = make_sweep(0.1, 0.01)
    with folder_lock(sweep.workdir, "sweep"):
        with pytest.raises(ValueError, match=f"Another sweep is at work in {sweep.workdir}: proc"):
            run_sweep(sweep, {}, program=STAND_IN)
        assert starts(sweep.workdir) == {}
    # The best run by hand, as --print_commands shows it: it holds its lock, then writes.
    folder = sweep.folder((MIDDLE, 0))
    program = """
import pathlib, subprocess, sys, time
from mixer.runtime.workdir_lock import folder_lock
with folder_lock(pathlib.Path(sys.argv[1]), "run"):
    print("locked", flush=True)
    time.sleep(float(sys.argv[2]))
    subprocess.run(sys.argv[3:], check=True)
"""
    by_hand = subprocess.Popen(
        [sys.executable, "-c", program, folder, "4", *sweep.command((MIDDLE, 0), STAND_IN)],
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert read_line(by_hand) == "locked\n"
        outcomes = run_sweep(sweep, {}, program=STAND_IN)
        assert by_hand.wait(timeout=30) == 0
    finally:
        by_hand.kill()
        by_hand.communicate(timeout=30)
    assert f"  at work elsewhere (process {by_hand.pid} on " in capsys.readouterr().out
    assert all(outcomes.values())
    summary = json.loads((sweep.workdir / "sweep.json").read_text())
    assert summary["chosen"] == MIDDLE


@pytest.mark.parametrize("encoding", slow_after(1, ["ascii", "latin-1:strict"]))
def test_a_terminal_without_utf_8_gets_escapes(encoding, config_file, tmp_path):
    lacking = {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = script(f"--config={config_file}", "--workdir=w", "--seeds=0,1")
    result = subprocess.run(
        command,
        cwd=tmp_path,
        env={**environment(), **lacking, "LC_ALL": "C"},
        capture_output=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    sign = b"\xb1" if "latin" in encoding else b"\\xb1"
    assert b" " + sign + b" 0.71% (mean" in result.stdout
    assert "±" in (tmp_path / "w" / "sweep.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_reaches_the_run(number, config_file, tmp_path):
    flags = [f"--config={config_file}", "--workdir=w", "--grid=optimizer.learning_rate=20"]
    # A shell starts with `&` what does not heed Ctrl-C, nor do its children.
    background = ["sh", "-c", 'trap "" INT; exec "$@"', "sh"] if number == signal.SIGTERM else []
    process = subprocess.Popen(
        [*background, *script(*flags)],
        cwd=tmp_path,
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    folder = tmp_path / "w" / "learning_rate=20.0" / "seed=0"
    deadline = time.monotonic() + 60
    while not (folder / "waits").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(number)
    _, shown = process.communicate(timeout=30)
    assert process.returncode == 130
    assert shown.splitlines() == ["", "Interrupted. Run the same command again to resume."]
    assert ("interrupted" in (folder / "log.txt").read_text()) == (number == signal.SIGINT)
    assert not (folder / "slept").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--config=c.py", "--select=test/top1"], "Expected a selection metric on images"),
        (
            ["--config=c.py", "--config.los=x", "--print_commands"],
            "Unknown config key 'los'",
        ),
        (["--config=c.py", "--workdir=gs://b/w"], "to be a local folder; got 'gs://b/w'"),
        (["--config=d.py"], "d.py has no SWEEP. Pass --grid=KEY=VALUE,VALUE."),
        (["--config=none.py"], "none.py"),
    ],
)
def test_what_cannot_be_run_is_refused(flags, message, config_file, tmp_path, call, monkeypatch):
    text = (tmp_path / "c.py").read_text()
    (tmp_path / "d.py").write_text(text.partition("SWEEP")[0])
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, OSError, absl.flags.Error), match=re.escape(message)):
        call("sweep.py", "--workdir=w", *flags)
    assert not (tmp_path / "w").exists()


def real_sweep(data_dir: str, *flags: str) -> list[str]:
    """Returns the command of a sweep of the digits, four steps a run, with a minival."""
    tiny = {"num_blocks": 1, "hidden_dim": 16, "tokens_mlp_dim": 8, "channels_mlp_dim": 32}
    return [
        *script(f"--config={ROOT}/configs/digits.py", "--workdir=w", *flags, program=None),
        *("--config.train_split=train[:90%]", "--config.eval_splits.minival=train[90%:]"),
        *(f"--config.num_epochs={4 * 64 / 1290}", "--config.optimizer.warmup_steps=1"),
        f"--config.data_dir={data_dir}",
        *(f"--config.model.{key}={value}" for key, value in tiny.items()),
    ]


@pytest.mark.slow
def test_a_real_run_from_another_folder_is_reported(data_dir, tmp_path):
    command = real_sweep(data_dir, "--grid=model.dtype=float32", "--seeds=5")
    result = run(*command, cwd=tmp_path)
    assert result.returncode == 0, result.stdout
    summary = json.loads((tmp_path / "w" / "sweep.json").read_text())
    (row,) = summary["combinations"]
    lines = read_metrics(epath.Path(tmp_path / "w" / "dtype=float32" / "seed=5"))
    assert row["mean"] == {key: lines[-1][key] for key in ("minival/top1", "test/top1")}
    assert lines[-1]["step"] == 4
    again = run(*command, cwd=tmp_path)
    assert again.returncode == 0
    assert "Runs finished: 1, to do: 0." in again.stdout
    assert (tmp_path / "w/dtype=float32/seed=5/log.txt").read_text().count("Starting") == 1


@pytest.mark.slow
def test_a_real_sweep_of_two_learning_rates(data_dir, tmp_path):
    grid = "--grid=optimizer.learning_rate=1e-3,1e30"
    result = run(*real_sweep(data_dir, grid, "--seeds=0,1"), cwd=tmp_path)
    assert result.returncode == 1
    assert "FloatingPointError" in result.stdout
    summary = json.loads((tmp_path / "w" / "sweep.json").read_text())
    low, high = summary["combinations"]
    assert (summary["chosen"], low["seeds"], high["failed_seeds"]) == (low["name"], [0, 1], [0])
