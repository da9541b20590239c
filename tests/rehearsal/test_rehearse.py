"""The rehearsal: what it refuses, and, with libtpu, real compilations.

With the packages of requirements-tpu.txt the marked tests compile for TPU slices; without them
they are skipped.
"""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import pytest
from children import one_device

from configs import digits, pretrain_imagenet, pretrain_jft300m
from mixer.build import build_without_data
from mixer.flops import CHIPS
from mixer.models import named
from mixer.paper import reference
from mixer.rehearsal import rehearse as rehearsal
from mixer.rehearsal.roofline import Roofline
from mixer.rehearsal.topology import GENERATIONS, num_cores, parse_slice

ROOT = pathlib.Path(__file__).parent.parent.parent

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="needs requirements-tpu.txt"
)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("batch_size", 60, "batch_size divisible by the 8 devices; got 60"),
        ("accumulation_steps", 3, r"8 devices x 3 accumulation_steps; got 64"),
        ("image_size", 18, "multiples of patch_size=4; got 18 x 18"),
        ("dataset", "folder:x", "Only the folder itself tells"),
        ("dataset", "digit", "Did you mean 'digits'"),
    ],
)
def test_configs_that_cannot_work_are_refused_before_compiling(monkeypatch, key, value, message):
    import jax

    monkeypatch.setattr(rehearsal, "slice_devices", lambda name: jax.devices())
    config = digits.get_config()
    config[key] = value
    with pytest.raises(ValueError, match=message):
        rehearsal.rehearse_training(config, "v3-8")


@pytest.mark.parametrize(
    ("base", "model", "speed", "core_days"),
    [
        (pretrain_imagenet.get_config("B/16"), "Mixer-B/16", 1384, 10),
        (pretrain_imagenet.get_config("B/16"), "ViT-B/16", 861, 20),
        (pretrain_jft300m.get_config("L/16,14"), "ViT-L/16", 280, 650),
        (pretrain_jft300m.get_config("B/16"), "BiT-R50x2", 890, 140),
        (pretrain_jft300m.get_config("L/16,14"), "ViT-B/16", None, None),
        (pretrain_imagenet.get_config("B/16"), "gMLP-B/16", None, None),
    ],
)
def test_the_row_of_the_paper_is_that_of_the_family(base, model, speed, core_days):
    name, variant = named(model)
    fields = {key: base.model[key] for key in ("head_bias_init", "dtype", "remat")}
    if name != "bit":
        fields |= {key: base.model[key] for key in ("dropout_rate", "stochastic_depth_rate")}
        fields |= {"gelu_approximate": True}
    base.model = {"name": name, "variant": variant, **fields}
    options, _ = build_without_data(base)
    row = rehearsal._paper_row(options)
    found = (row.img_per_sec_per_core, row.tpu_v3_core_days) if row else (None, None)
    assert found == (speed, core_days)


def rehearse(*arguments: str) -> list[dict]:
    """Returns the JSON lines of the script, in a process that has not asked for CPU devices."""
    run = subprocess.run(
        [sys.executable, "scripts/rehearse_tpu.py", *arguments, "--json"],
        cwd=ROOT,
        env={**os.environ, "XLA_FLAGS": one_device(), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert run.returncode == 0, run.stderr
    return [json.loads(line) for line in run.stdout.splitlines()]


@pytest.mark.parametrize("seconds", [-40.648, 0.0, 0.0256, 0.0979])
def test_an_estimate_of_the_compiler_that_cannot_be_gives_way_to_the_roofline(seconds):
    chip = CHIPS["TPU v5 lite"]
    flops = 0.098 * chip.flops_per_second

    def estimate(by_compiler: float, by_roofline: float, share: float) -> dict:
        found = Roofline(by_roofline, share * flops, memory_bytes=0.0)
        return rehearsal.estimate(flops, compiler_seconds=by_compiler, found=found, chip=chip)

    found = estimate(seconds, 0.12, 0.997)
    assert (found["estimated_step_ms"], found["estimated_by"]) == (120.0, "roofline")
    found = estimate(0.11, 0.12, 0.997)
    assert (found["estimated_step_ms"], found["estimated_by"]) == (110.0, "compiler")
    assert found["roofline_step_ms"] == 120.0
    # No figure is above the peak of the chip, and none of a program that is not understood.
    assert estimate(seconds, 0.01, 0.997)["estimated_step_ms"] == pytest.approx(98)
    assert estimate(seconds, 0.12, 0.9) == {}
    assert estimate(0.11, 0.12, 0.9) == {"estimated_step_ms": 110.0, "estimated_by": "compiler"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Expected one of --config=FILE[:ARGUMENTS] and --goal"),
        (["--config=configs/digits.py", "--price=v5e:1"], "Expected --price together with --sweep"),
        (["--goal=pretrain_imagenet.py:B/17", "--sweep"], "Did you mean 'B/16'?"),
    ],
)
def test_a_command_line_that_cannot_work_is_refused(arguments, message):
    done = subprocess.run(
        [sys.executable, "scripts/rehearse_tpu.py", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 1
    assert message in done.stderr


RECORDED = [json.loads(line) for line in (ROOT / "docs/rehearsals.jsonl").read_text().splitlines()]


# By hand, as in tests/test_flops.py: stem, token and channel mixing of the blocks, head.
MULTIPLICATIONS = {
    "S/16": lambda classes: 196 * 768 * 512 + 8 * 196 * 512 * 2 * (256 + 2048) + 512 * classes,
    "B/16": lambda classes: 196 * 768 * 768 + 12 * 196 * 768 * 2 * (384 + 3072) + 768 * classes,
    "L/16": lambda classes: 196 * 768 * 1024 + 24 * 196 * 1024 * 2 * (512 + 4096) + 1024 * classes,
    "H/14": lambda classes: 256 * 588 * 1280 + 32 * 256 * 1280 * 2 * (640 + 5120) + 1280 * classes,
    # 196 patches and the class token: queries to output, scores and sums, MLP.
    "ViT-B/16": lambda classes: (
        196 * 768 * 768 + 12 * 197 * 768 * (4 * 768 + 2 * 197 + 2 * 3072) + 768 * classes
    ),
}
FINE_TUNING = "configs/finetune.py:B/16,imagenet,448"
CLASSES = {"imagenet": 1000, "imagenet21k": 21_843, "jft300m": 18_291}


def by_hand(config: str) -> int:
    """Returns the FLOPs of a training step."""
    if config == FINE_TUNING:  # 784 patches; the token mixing grows with them
        forward = 784 * 768 * 768 + 12 * 784 * 768 * 2 * (4 * 384 + 3072) + 768 * 1000
        return 512 * 3 * 2 * forward
    file, _, size = config.removeprefix("configs/pretrain_").partition(".py:")
    return 4096 * 3 * 2 * MULTIPLICATIONS[size](CLASSES[file])


@pytest.mark.parametrize("record", RECORDED, ids=lambda r: f"{r['config']}-{r['topology']}")
def test_recorded_figures_are_possible(record):
    kinds = {"v2": "TPU v2", "v3": "TPU v3", "v4": "TPU v4", "v5p": "TPU v5"}
    kinds |= {"v5e": "TPU v5 lite", "v6e": "TPU v6 lite"}
    chip = CHIPS[kinds[parse_slice(record["topology"]).generation]]
    devices = num_cores(record["topology"]) / chip.cores
    seconds = by_hand(record["config"]) / devices / chip.flops_per_second
    assert record["bound_step_ms"] == pytest.approx(seconds * 1e3, 0.01)
    assert record["roofline_step_ms"] >= record["bound_step_ms"]
    assert record.get("estimated_step_ms", 1e9) >= record["bound_step_ms"]
    assert record["fits"]
    assert 0 < record["peak_hbm_gib"] <= chip.hbm_gib


def test_every_row_of_table_4_was_compiled_for_every_generation():
    wanted = set()
    for row in reference.table4_rows():
        size = row.model.removeprefix("Mixer-") + ("/14" if row.model == "Mixer-H" else "/16")
        wanted |= {
            (f"configs/pretrain_{row.pretrain}.py:{size}", generation)
            for generation in GENERATIONS.values()
        }
    recorded = {
        (record["config"], parse_slice(record["topology"]).generation)
        for record in RECORDED
        if "note" not in record
    }
    assert wanted - recorded == set()


@needs_libtpu
def test_a_small_config_on_two_slices():
    reports = rehearse("--config=configs/digits.py", "--topology=v3-8,v5e-4")
    assert [(r["topology"], r["num_cores"]) for r in reports] == [("v3-8", 8), ("v5e-4", 4)]
    assert all(r["fits"] and r["config"] == "configs/digits.py" for r in reports)
    assert all(0 < r["bound_step_ms"] <= r["estimated_step_ms"] for r in reports)
    # 8 images a core, 3 x the forward products of 141,578 parameters; elementwise work beside it.
    assert 0.05 < reports[0]["gflops_per_core"] < 0.3
    # The gradient of every parameter is reduced once, in one operation.
    reduced = reports[0]["collectives"]["all-reduce"]
    assert reduced["count"] == 1
    assert reduced["mib"] == pytest.approx(141_578 * 4 / 2**20, rel=0.05)


@needs_libtpu
def test_inference_takes_a_batch_on_every_core():
    reports = rehearse(
        "--config=configs/digits.py", "--topology=v3-8", "--mode=infer", "--batch_per_core=8,64"
    )
    assert [r["batch_per_core"] for r in reports] == [8, 64]
    assert reports[1]["images_per_s_per_core"] > reports[0]["images_per_s_per_core"]


@needs_libtpu
@pytest.mark.slow
def test_the_step_of_mixer_b16_is_as_lean_as_it_was():
    (report,) = rehearse("--config=configs/pretrain_imagenet.py:B/16", "--topology=v3-32")
    assert report["estimated_step_ms"] <= 178.5
    assert report["peak_hbm_gib"] <= 4.3
    assert report["bound_step_ms"] == pytest.approx(157.4, rel=0.01)


@needs_libtpu
@pytest.mark.slow
def test_the_step_of_vit_b16_is_as_lean_as_it_was():
    (report,) = rehearse(
        *("--config=configs/pretrain_imagenet.py:B/16", "--topology=v3-32"),
        *("--config.model.name=vit", "--config.model.pool=token"),
        *("--config.model.representation_size=768", "--config.model.stochastic_depth_rate=0.0"),
    )
    assert report["estimated_step_ms"] <= 316
    assert report["peak_hbm_gib"] <= 7.8
    assert report["bound_step_ms"] == pytest.approx(220.8, rel=0.01)


@needs_libtpu
@pytest.mark.slow
@pytest.mark.parametrize("topology", ["v4-32", "v5litepod-32", "v5p-16", "v6e-16"])
def test_no_figure_of_a_table_4_row_can_be_wrong_by_its_sign_or_above_the_peak(topology):
    (report,) = rehearse(
        *("--config=configs/pretrain_imagenet.py:B/16", f"--topology={topology}", "--noadvise")
    )
    peak = {"v4": 275e12, "v5e": 197e12, "v5p": 459e12, "v6e": 918e12}
    generation, _, number = report["topology"].partition("-")
    chips = int(number) // (2 if generation in ("v4", "v5p") else 1)
    # 3 x the forward pass of Mixer-B/16, 4096 images.
    flops = report["gflops_per_core"] * 1e9 * report["num_cores"]
    assert flops == pytest.approx(4096 * 75.61e9, rel=0.01)
    assert report["bound_step_ms"] == pytest.approx(flops / chips / peak[generation] * 1e3)
    assert report["fits"]
    assert report["estimated_step_ms"] >= report["bound_step_ms"]
    assert report["hours"] > 0


@needs_libtpu
@pytest.mark.slow
def test_plain_flax_is_slower_on_v3():
    (report,) = rehearse(
        *("--config=configs/pretrain_imagenet.py:B/16", "--topology=v3-32", "--peer=plain_flax")
    )
    assert report["time_ratio"] < 0.95
    assert report["hbm_ratio"] < 1


@needs_libtpu
@pytest.mark.slow
def test_between_two_slices_goes_the_gradient_once():
    (report,) = rehearse(
        "--config=configs/pretrain_imagenet.py:B/16", "--topology=2xv6e-16", "--noadvise"
    )
    assert report["num_cores"] == 32
    gradient = 59_880_472 * 2 / 2**20  # bfloat16
    assert gradient <= report["between_slices_mib"] < 1.1 * gradient


@needs_libtpu
@pytest.mark.slow
def test_what_does_not_fit_is_said_with_a_change_that_does():
    reports = rehearse(
        *("--config=configs/digits.py", "--topology=v3-8"),
        *("--config.batch_size=1048576", "--config.num_epochs=1000000.0"),
    )
    assert not reports[0]["fits"]
    assert reports[0]["peak_hbm_gib"] > 15
    assert reports[-1]["fits"]
    assert "accumulation_steps=4" in reports[-1]["change"]
