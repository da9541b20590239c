"""Measures the training or inference throughput of a model on this machine, in images/s/core.

python scripts/benchmark.py --variant=B/16 --mode=train --batch_sizes=64,128
python scripts/benchmark.py --variant=ViT-B/16 --mode=infer

--mode=train times the training step of ImageNet pre-training, --mode=infer the forward pass from
uint8 images to logits. The images are random and already on the device, so no dataset is needed.
Cores are counted as cloud providers do: one or two per TPU chip, one per GPU, and one for all CPUs
of a host. With several image sizes, as in --image_size=224,448,672, the script also reports how
time and FLOPs scale with the number of tokens.
"""

import json
from typing import Any

from absl import flags

from mixer.runtime import command, startup

_MODEL = flags.DEFINE_string("model", None, "Model family, if --variant does not name it.")
_VARIANT = flags.DEFINE_string(
    "variant", "B/16", "Model size: B/16 of Mixer, or of another family, as in ViT-B/16."
)
_MODE = flags.DEFINE_enum("mode", "train", ["train", "infer"], "Training step or inference.")
_BATCH_SIZES = flags.DEFINE_list("batch_sizes", ["32", "64", "128"], "Images per device.")
_IMAGE_SIZE = flags.DEFINE_list("image_size", ["224"], "Image sides to measure, in pixels.")
_DTYPE = flags.DEFINE_enum(
    "dtype", None, ["float32", "bfloat16"], "Activation dtype. Default: bfloat16, on CPUs float32."
)
_SECONDS = flags.DEFINE_float("seconds", 2.0, "Approximate length of a timing window.", 0.001)
_WINDOWS = flags.DEFINE_integer("windows", 5, "Timing windows per batch size.", 1)
_JSON = flags.DEFINE_bool("json", False, "Print one JSON object instead of a table.")

_HEADER = "batch/device  img/s/core     min     max  TFLOP/s  of peak  peak GiB   compile s"


def main() -> None:
    startup.keep_freed_memory()
    report = _measure()
    if _JSON.value:
        print(json.dumps(report))
    if not any(result["best"] for result in report["results"]):
        raise ValueError("No batch size fits in memory. Try smaller --batch_sizes.")
    if not _JSON.value:
        _print_footer(report)


def _measure() -> dict[str, Any]:
    import jax  # after flag parsing, since it takes seconds

    from mixer.benchmark import throughput, workloads
    from mixer.models import named
    from mixer.sharding import create_mesh

    batch_sizes, image_sizes = (
        command.positive_integers(_BATCH_SIZES),
        command.positive_integers(_IMAGE_SIZE),
    )
    dtype = _DTYPE.value or ("float32" if jax.default_backend() == "cpu" else "bfloat16")
    name, variant = (_MODEL.value, _VARIANT.value) if _MODEL.value else named(_VARIANT.value)
    model = workloads.recipe_model(name, variant, dtype)
    mesh = create_mesh(**workloads.RECIPE_MESH)
    windows = {"seconds": _SECONDS.value, "windows": _WINDOWS.value}
    report = {
        "model": name,
        "variant": variant,
        "mode": _MODE.value,
        "dtype": dtype,
        **throughput.describe_devices(mesh),
        **windows,
        "matrix_tflops": throughput.measure_matrix_peak(dtype, **windows),
        "results": [],
    }
    _print_header(report)
    for image_size in image_sizes:
        result = throughput.measure_throughput(
            model,
            mode=_MODE.value,
            image_size=image_size,
            batch_sizes=batch_sizes,
            mesh=mesh,
            matrix_tflops=report["matrix_tflops"],
            **windows,
        )
        report["results"].append(result)
        _print(result)
    report["token_scaling"] = throughput.token_scaling(report["results"])
    return report


def _print_header(report: dict[str, Any]) -> None:
    if not _JSON.value:
        print(
            f"{report['model']} {report['variant']}, {report['mode']}, {report['dtype']}, on "
            f"{report['num_devices']} x {report['device']}, jax {report['jax']}\n"
            f"host: {report['host_cpus']} CPUs, load average {report['host_load']:.1f} before the "
            f"run\npeak: {report['matrix_tflops']:.4g} TFLOP/s in a large matrix product",
            flush=True,
        )


def _print(result: dict[str, Any]) -> None:
    from mixer.benchmark.timing import four_digits

    if _JSON.value:
        return
    size, gflops = result["image_size"], result["gflops_per_image"]
    tokens = f"{result['tokens']} tokens, " if result["tokens"] else ""
    print(f"\n{size} x {size}, {tokens}{gflops:.1f} GFLOP/image\n{_HEADER}")
    for row in result["rows"]:
        if "out_of_memory" in row:
            print(f"{row['batch_size']:12}  does not fit in memory")
            continue
        speed = row["images_per_s_per_core"]
        memory = row["peak_memory_gib"]
        speeds = "  ".join(
            four_digits(speed[key]).rjust(width)
            for key, width in (("median", 10), ("min", 6), ("max", 6))
        )
        print(
            f"{row['batch_size']:12}  {speeds}  {row['tflops_per_device']:7.4g}  "
            f"{row['matrix_share']:7.1%}  "
            f"{'-' if memory is None else format(memory, '.2f'):>8}  {row['compile_s']:10.1f}"
            + ("  best" if row is result["best"] else ""),
            flush=True,
        )


def _print_footer(report: dict[str, Any]) -> None:
    scaling = report["token_scaling"]
    if scaling:
        tokens = ", ".join(map(str, scaling["tokens"]))
        print(
            f"\nOver {tokens} tokens, time per image grows as "
            f"tokens^{scaling['time_exponent']:.3f} and FLOPs as "
            f"tokens^{scaling['flops_exponent']:.3f}."
        )
    counted = {
        row["peak_memory_from"]
        for result in report["results"]
        for row in result["rows"]
        if "out_of_memory" not in row
    }
    print(
        f"\nimg/s/core: median of {report['windows']} windows. TFLOP/s: per device, counting only "
        f"the model's matmuls. peak GiB: per device, from the {' or '.join(sorted(counted))}."
    )


if __name__ == "__main__":
    command.run(main)
