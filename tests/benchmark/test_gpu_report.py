"""The report of a GPU: its search for a batch, its table, its errors, and all of it on a CPU."""

import datetime
import importlib.metadata
import importlib.util
import json
import os
import re
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
from children import one_device, run
from PIL import Image

from mixer.benchmark.batches import largest_batch, measure_batches
from mixer.benchmark.children import (
    NotMeasuredError,
    accuracy_cell,
    minutes_to_accuracy,
    read_evaluations,
    run_json,
)
from mixer.benchmark.gpu_table import Row, markdown

CPU = {"JAX_PLATFORMS": "cpu"}


def batch_row(batch: int, images_per_s: float = 100.0, gib: float | None = 1.0) -> dict:
    return {
        "batch_size": batch,
        "images_per_s_per_core": {"median": images_per_s},
        "tflops_per_device": images_per_s / 10,
        "peak_memory_gib": gib,
    }


def cells_of(report: str) -> list[list[str]]:
    """Returns the cells of the header and of the rows."""
    lines = [line for line in report.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


@pytest.mark.parametrize(
    ("weights", "per_image", "fits", "expected"),
    [
        # As if all 5 GiB were of images, 512 fit; after that, the slope says 1024.
        (1.0, 1 / 16, 80.0, [64, 512, 1024]),
        (0.0, 1 / 16, 80.0, [64, 1024]),
        (0.0, 1 / 16, 20.0, [64, 256]),  # 1024 and 512 do not fit, although the limit says so
        (0.0, 1 / 16, 0.6, [8]),
        (0.0, 1 / 4096, 80.0, [64, 2048]),  # no more than 2048
        (0.0, 1.0, 0.5, []),
    ],
)
def test_the_largest_batch_is_found(weights, per_image, fits, expected):
    tried = []

    def measure(batch):
        tried.append(batch)
        gib = weights + batch * per_image
        return batch_row(batch, gib=gib) if gib <= fits else None

    rows = list(measure_batches(measure, first=64, most=2048, limit_gib=79.0))
    assert [row["batch_size"] for row in rows] == expected
    assert len(tried) == len(set(tried)) <= 8


def test_a_batch_is_not_guessed_from_memory_that_does_not_grow():
    assert largest_batch([batch_row(64, gib=2.0), batch_row(128, gib=2.0)], 80.0, 2048) == 128


def test_the_table_has_what_was_measured_and_why_the_rest_was_not():
    peer = {"images_per_s": {"median": 50.0}, "ratio": {"median": 2.25}}
    rows = [
        Row(
            "S/16",
            "train",
            ours=[batch_row(64, 100.0, 2.0), batch_row(512, 90.0, 15.5)],
            peers={"plain_flax": peer, "timm": "out of memory", "timm_compiled": "failed: a|b\nc"},
            peer_batch=128,
        ),
        Row("B/16", "infer", ours=[batch_row(64, 300.0, None)]),
        Row("L/16", "train", ours="out of memory", peers={"timm": "-"}),
    ]
    report = markdown(
        rows,
        description={"card": "X 80GB", "date": "2026-01-02"},
        peak_tflops=25.0,
        cifar=("0.7M,cifar10", "12.3 min (90.12%)"),
        unfinished="L/16 inference (--minutes=10)",
    )
    assert report.startswith("card X 80GB; date 2026-01-02.\n\n| model | mode | images/s |")
    header, *found = cells_of(report)
    assert header[7:] == [
        "plain flax (ours / it)",
        "timm (ours / it)",
        "timm compiled (ours / it)",
        "batch beside them",
    ]
    assert found == [
        ["S/16", "training", "100", "40.0%", "64", "2.00 GiB", "512", "50 (2.25)"]
        + ["out of memory", "failed: a/b c", "128"],
        # 30 TFLOP/s of a peak of 25.
        ["B/16", "inference", "300", "not credible: 120%", "64", "-", "64"]
        + ["no time"] * 3
        + ["-"],
        ["L/16", "training", "out of memory", *["-"] * 4, "no time", "-", "no time", "-"],
        ["0.7M,cifar10", "to 90% test top-1", "12.3 min (90.12%)", *["-"] * 8],
    ]
    assert "measured, 25 TFLOP/s here." in report
    assert report.endswith("Left out: L/16 inference (--minutes=10).\n")


def test_the_minutes_are_those_of_the_first_evaluation_that_is_good_enough(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert read_evaluations(path) == []
    lines = [
        {"step": 50, "loss": 2.0, "train_seconds": 30.0},
        {"step": 50, "minival/top1": 0.95, "test/top1": 0.5},
        {"step": 100, "loss": 1.0, "train_seconds": 66.0},
        {"step": 100, "minival/top1": 0.95, "test/top1": 0.9},
        {"step": 150, "loss": 1.0, "train_seconds": 90.0},
        {"step": 150, "test/top1": 0.93},
    ]
    whole = "".join(json.dumps(line) + "\n" for line in lines)
    path.write_text(whole[:-1])  # the last line is still being written
    found = read_evaluations(path)
    assert found == [
        {"step": 50, "top1": 0.5, "train_seconds": 30.0},
        {"step": 100, "top1": 0.9, "train_seconds": 66.0},
    ]
    assert accuracy_cell(found, 0.9, total_steps=1000) == "1.1 min (90.00%)"
    assert accuracy_cell(found, 0.91, total_steps=1000) == (
        "not reached in 1.1 min (best 90.00%, step 100); all 1,000 steps: about 11 min"
    )
    assert accuracy_cell(found[:1], 0.9, total_steps=None) == (
        "not reached in 0.5 min (best 50.00%, step 50)"
    )
    with pytest.raises(NotMeasuredError, match="no time for the first evaluation"):
        accuracy_cell([], 0.9, total_steps=1000)


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("import time; time.sleep(60)", "no time"),
        ("raise SystemExit('RESOURCE_EXHAUSTED: Out of memory allocating')", "out of memory"),
        ("raise ValueError('a reason')", "failed: ValueError: a reason"),
        ("raise SystemExit('error: wrong\\n(--verbosity=0 shows where.)')", "failed: wrong"),
        ("raise SystemExit(3)", "exit 3"),
        ("import os; os.kill(os.getpid(), 9)", "exit -9"),
    ],
)
def test_why_a_program_has_no_result(program, reason):
    with pytest.raises(NotMeasuredError) as raised:
        run_json(["-c", program], CPU, seconds=1.0 if reason == "no time" else 60.0)
    assert str(raised.value) == reason


def test_a_program_that_is_out_of_time_ends_with_all_that_it_started(tmp_path):
    program = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(child.pid))\n"
        "time.sleep(60)\n"
    )
    with pytest.raises(NotMeasuredError, match="no time"):
        run_json(["-c", program], CPU, seconds=2.0)
    pid = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 10
    while _runs(pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_result_is_kept_though_the_program_ends_with_an_error():
    program = "print('{\"x\": 1}'); raise SystemExit('error: No batch size fits in memory.')"
    assert run_json(["-c", program], CPU, seconds=60.0) == {"x": 1}


def test_a_run_that_reaches_the_accuracy_is_stopped():
    program = (
        "import json, pathlib, sys, time\n"
        "workdir = pathlib.Path(sys.argv[-1].removeprefix('--workdir='))\n"
        "workdir.mkdir()\n"
        "print('step 1/10 | loss 1', flush=True)\n"
        "lines = [{'step': 1, 'train_seconds': 120.0}, {'step': 1, 'test/top1': 0.91}]\n"
        "text = ''.join(json.dumps(line) + '\\n' for line in lines)\n"
        "(workdir / 'metrics.jsonl').write_text(text)\n"
        "time.sleep(60)\n"
    )
    said: list[str] = []
    cell = minutes_to_accuracy(["-c", program], CPU, 50.0, accuracy=0.9, on_progress=said.append)
    assert cell == "2.0 min (91.00%)"
    assert said == ["step 1, 2.0 min of training: test top-1 91.00%"]
    cell = minutes_to_accuracy(["-c", program], CPU, 3.0, accuracy=0.95, on_progress=said.append)
    assert cell == "not reached in 2.0 min (best 91.00%, step 1); all 10 steps: about 20 min"


def report(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "mixer.benchmark.gpu_report", *map(str, arguments)]
    return run(command, env={**os.environ, "XLA_FLAGS": one_device()}, limit=1300)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--device=cpu"], "Expected --miniature with --device=cpu"),
        (["--cifar=cifar1"], "Expected --cifar to be cifar10 or folder:PATH; got 'cifar1'."),
        (["--output={folder}/there.md"], "Expected --output to be a new file in a folder that"),
        (["--output={folder}/no/new.md"], "Expected --output to be a new file in a folder that"),
    ],
)
def test_what_cannot_be_reported_is_refused_at_once(arguments, message, tmp_path):
    (tmp_path / "there.md").write_text("precious")
    done = report(
        f"--output={tmp_path}/new.md", *(text.format(folder=tmp_path) for text in arguments)
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {message}")
    assert os.listdir(tmp_path) == ["there.md"]
    assert (tmp_path / "there.md").read_text() == "precious"


def test_without_a_gpu_the_report_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))  # no nvidia-smi
    done = report(f"--output={tmp_path}/new.md")
    assert done.returncode == 1
    assert done.stderr.startswith("error: Expected an NVIDIA GPU that nvidia-smi shows; got: ")
    assert "--device=cpu --miniature" in done.stderr
    assert os.listdir(tmp_path) == []


def test_without_time_for_a_row_nothing_is_written(tmp_path):
    done = report(*("--device=cpu", "--miniature", "--minutes=0.01", f"--output={tmp_path}/new.md"))
    assert done.returncode == 1
    assert "error: Expected to measure a model; got: no time." in done.stderr
    assert os.listdir(tmp_path) == []


@pytest.mark.slow
@pytest.mark.timeout(1400)  # compiles for timm, too, where it is installed
def test_every_row_on_a_cpu(tmp_path):
    rng = np.random.default_rng(0)
    for split, images in (("train", 40), ("test", 4)):
        for name in ("cat", "dog"):
            folder = tmp_path / "images" / split / name
            folder.mkdir(parents=True)
            for number in range(images):
                pixels = rng.integers(0, 256, (32, 32, 3), np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    output = tmp_path / "report.md"
    dataset = f"folder:{tmp_path / 'images'}"
    done = report(
        *("--device=cpu", "--miniature", "--peers", "--minutes=40"),
        *(f"--cifar={dataset}", f"--output={output}"),
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == output.read_text()
    assert sorted(os.listdir(tmp_path)) == ["images", "report.md"]

    description = done.stdout.splitlines()[0]
    assert re.match(
        rf"card none, {os.cpu_count()} cores of .+; driver none; precision float32; ", description
    )
    assert f"; jax {importlib.metadata.version('jax')}; " in description
    assert f"; flax {importlib.metadata.version('flax')}; " in description
    assert re.search(r"; torch [^;]+; timm [^;]+; date ", description)
    assert description.endswith(f"date {datetime.date.today().isoformat()}.")
    header, *rows = cells_of(done.stdout)
    assert len(header) == 11
    models = ("S/32", "ViT-Ti/16")
    modes = ("training", "inference")
    assert [row[:2] for row in rows[:-1]] == [[model, mode] for model in models for mode in modes]
    for row in rows[:-1]:
        assert float(row[2]) > 0
        assert re.fullmatch(r"[\d.]+%|not credible: \d+%", row[3])
        assert float(row[5].removesuffix(" GiB")) > 0
        assert (row[4], row[6], row[10]) == ("2", "2", "1")
        peers = 1 if importlib.util.find_spec("timm") is None else 3
        assert row[7 + peers : 10] == ["not installed"] * (3 - peers)
        for cell in row[7 : 7 + peers]:
            images_per_s, ratio = re.fullmatch(r"([\d.]+) \(([\d.]+)\)", cell).groups()
            assert min(float(images_per_s), float(ratio)) > 0
    assert rows[-1][:2] == [f"0.15M,{dataset}", "to 90% test top-1"]
    assert re.fullmatch(r"not reached in \d+\.\d min \(best \d+\.\d\d%, step [24]\)", rows[-1][2])
    assert "Left out" not in done.stdout
    assert len(re.findall(r"^\[ *\d+ s\] \S+ (training|inference)", done.stderr, re.M)) == 16
