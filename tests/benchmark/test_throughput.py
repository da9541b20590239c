"""Throughput: the arithmetic with given timings, the real work with a tiny model."""

import jax
import pytest

from configs import pretrain_imagenet
from mixer.benchmark import throughput, workloads
from mixer.benchmark.throughput import fitted_exponent, token_scaling
from mixer.benchmark.timing import Workload
from mixer.flops import Chip
from mixer.sharding import create_mesh

TIMES = {"seconds": 0.01, "windows": 3}
SPREAD = {"median", "min", "max"}


@pytest.fixture
def paces(monkeypatch):
    """Makes the windows have 4, 1 and 2 calls per second."""
    given = iter([4.0, 1.0, 2.0])
    monkeypatch.setattr(throughput, "warm_up", lambda work, seconds: 1)
    monkeypatch.setattr(throughput, "time_calls", lambda work, calls: next(given))


@pytest.mark.parametrize("cores", [1, 2])
def test_the_figures_follow_from_the_median(paces, monkeypatch, one_device_mesh, cores):
    monkeypatch.setitem(throughput.CHIPS, "cpu", Chip(1e12, 1, cores=cores))
    row = throughput.measure_batch_size(
        lambda size: Workload(lambda calls: None, compile_s=7.0, program_bytes=3 * 2**29),
        8,
        mesh=one_device_mesh,
        flops_per_image=1e9,
        matrix_tflops=0.064,
        **TIMES,
    )
    assert row == {
        "batch_size": 8,
        # 2 calls of 8 images a second, of one device
        "images_per_s_per_core": {"median": 16 / cores, "min": 8 / cores, "max": 32 / cores},
        "tflops_per_device": 0.016,
        "matrix_share": 0.25,
        "peak_memory_gib": 1.5,
        "peak_memory_from": "compiler",
        "compile_s": 7.0,
    }


@pytest.mark.parametrize(("after", "expected"), [(4, (4.0, "device")), (3, (1.5, "compiler"))])
def test_a_device_that_counts_its_memory_is_believed_if_it_rose(
    paces, monkeypatch, one_device_mesh, after, expected
):
    peaks = iter([3 * 2**30, after * 2**30])
    monkeypatch.setattr(throughput, "_peak_bytes", lambda mesh: next(peaks))
    row = throughput.measure_batch_size(
        lambda size: Workload(lambda calls: None, compile_s=7.0, program_bytes=3 * 2**29),
        8,
        mesh=one_device_mesh,
        flops_per_image=1e9,
        matrix_tflops=1.0,
        **TIMES,
    )
    assert (row["peak_memory_gib"], row["peak_memory_from"]) == expected


@pytest.mark.parametrize("mode", ["train", "infer"])
def test_a_tiny_model_on_all_devices(tiny_mixer, mode):
    result = throughput.measure_throughput(
        tiny_mixer.clone(num_blocks=1, dropout_rate=0.0),
        mode=mode,
        image_size=8,
        batch_sizes=[2],
        mesh=create_mesh(**workloads.RECIPE_MESH),
        matrix_tflops=1e-6,
        **TIMES,
    )
    # S = C = 16, D_S = 8, D_C = 32: stem, block and head, in multiply-adds
    forward = 2 * (16 * 16 * 12 + 2 * 16 * 16 * 8 + 2 * 16 * 16 * 32 + 16 * 10)
    flops = forward * (3 if mode == "train" else 1)
    assert result["tokens"] == 16
    assert result["gflops_per_image"] == flops / 1e9
    (row,) = result["rows"]
    assert result["best"] is row
    speed = row["images_per_s_per_core"]
    assert 0 < speed["min"] <= speed["median"] <= speed["max"]
    assert row["tflops_per_device"] == pytest.approx(speed["median"] * flops / 1e12)
    assert row["matrix_share"] == pytest.approx(row["tflops_per_device"] / 1e-6)
    assert row["peak_memory_gib"] > 2 * 8 * 8 * 3 / 2**30


def test_a_batch_that_does_not_fit_is_said_and_the_others_go_on(
    tiny_mixer, monkeypatch, one_device_mesh
):
    def inference(model, *, batch_size, image_size, mesh):
        def run(calls):
            if batch_size == 4:
                raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes.")
            if batch_size == 64:
                raise RuntimeError("INTERNAL: something else")

        return Workload(run, compile_s=0.0)

    monkeypatch.setattr(workloads, "inference", inference)
    arguments = {"mode": "infer", "image_size": 8, "mesh": one_device_mesh, "matrix_tflops": 1.0}
    arguments |= TIMES
    monkeypatch.setattr(throughput, "warm_up", lambda work, seconds: work.run(1) or 1)
    monkeypatch.setattr(throughput, "time_calls", lambda work, calls: 5.0)
    result = throughput.measure_throughput(tiny_mixer, batch_sizes=[8, 4, 2], **arguments)
    assert result["rows"][1] == {"batch_size": 4, "out_of_memory": True}
    assert [row["batch_size"] for row in result["rows"]] == [8, 4, 2]
    assert result["best"] is result["rows"][0]
    assert throughput.measure_throughput(tiny_mixer, batch_sizes=[4], **arguments)["best"] is None
    with pytest.raises(RuntimeError, match="something else"):
        throughput.measure_throughput(tiny_mixer, batch_sizes=[64], **arguments)


def test_the_matrix_peak_is_that_of_the_fastest_window(paces, monkeypatch):
    monkeypatch.setattr(throughput, "_PRODUCT", {"cpu": (10, 20, 30)})
    assert throughput.measure_matrix_peak("bfloat16", **TIMES) == 4.0 * 2 * 10 * 20 * 30 / 1e12


def test_the_step_is_that_of_the_config(tiny_mixer, monkeypatch, one_device_mesh):
    given = {}
    create_adam, make_train_step = workloads.create_adam, workloads.make_train_step
    monkeypatch.setattr(
        workloads, "create_adam", lambda schedule, **kw: given.update(kw) or create_adam(1e-3, **kw)
    )
    monkeypatch.setattr(
        workloads,
        "make_train_step",
        lambda *args, **kw: given.update(kw, loss=args[2]) or make_train_step(*args, **kw),
    )
    workloads.training_step(tiny_mixer, image_size=8, mesh=one_device_mesh, **workloads.RECIPE_STEP)
    config = pretrain_imagenet.get_config("B/16")
    for key in ("beta1", "beta2", "weight_decay", "clip_global_norm", "mu_dtype"):
        assert given[key] == config.optimizer[key]
    for key in ("mixup_alpha", "accumulation_steps"):
        assert given[key] == config[key]
    assert given["loss"] is workloads.LOSSES[config.loss]
    assert config.model.dropout_rate == 0.0
    assert {key: config.model[key] for key in workloads.RECIPE_MODEL} == workloads.RECIPE_MODEL
    assert config.mesh.to_dict() == workloads.RECIPE_MESH


@pytest.mark.parametrize(
    ("name", "variant", "tokens"),
    [("mixer", "B/16", 196), ("vit", "L/16", 197), ("gmlp", "S/16", 196), ("bit", "R50x1", None)],
)
def test_every_family_has_the_recipe_and_its_tokens(name, variant, tokens):
    model = workloads.recipe_model(name, variant, "bfloat16")
    assert (model.num_classes, model.dtype, model.head_bias_init) == (1000, "bfloat16", -6.9)
    assert getattr(model, "stochastic_depth_rate", None) == (None if name == "bit" else 0.1)
    assert throughput._tokens(model, 224) == tokens


def test_chained_calls_continue_from_the_last_state():
    seen = []

    def step(state, increment):
        jax.debug.callback(lambda value: seen.append(float(value)), state, ordered=True)
        return state + increment, state

    work = workloads.chained(jax.jit(step), jax.numpy.zeros(()), 2.0)
    work.run(2)
    work.run(1)
    jax.effects_barrier()
    assert seen == [0.0, 2.0, 4.0]


def test_the_exponent_of_a_power_law_is_found():
    sizes = [196, 784, 1764]
    assert fitted_exponent(sizes, [3e-4 * size**1.07 for size in sizes]) == pytest.approx(1.07)
    assert fitted_exponent(sizes, [5.0, 5.0, 5.0]) == pytest.approx(0.0)


def test_tokens_against_time_and_flops():
    def result(tokens: int | None, speed: float | None) -> dict:
        best = {"images_per_s_per_core": {"median": speed}} if speed else None
        return {"tokens": tokens, "gflops_per_image": 2.0 * (tokens or 1), "best": best}

    # Four times the tokens at an eighth of the speed: 8 = 4 ** 1.5.
    scaling = token_scaling([result(100, 80.0), result(400, 10.0), result(900, None)])
    assert scaling["tokens"] == [100, 400]
    assert scaling["time_exponent"] == pytest.approx(1.5)
    assert scaling["flops_exponent"] == pytest.approx(1.0)
    assert token_scaling([result(100, 80.0), result(400, None)]) is None
    assert token_scaling([result(None, 80.0), result(None, 40.0)]) is None
