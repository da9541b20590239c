"""Runs an exported model with its own runtime, and without this project: an example, and a check.

python mixer/export/read_back.py FORMAT EXPORT IMAGES.npz OUTPUTS.npz

FORMAT is stablehlo, onnx or savedmodel. Each array of IMAGES.npz is a batch; OUTPUTS.npz has the
outputs under the same names, and as `seconds` the time of the last batch, the best of three.
"""

import pathlib
import sys
import time
from collections.abc import Callable

import numpy as np

Run = Callable[[np.ndarray], np.ndarray]


def stablehlo(path: str) -> Run:
    from jax import export

    exported = export.deserialize(bytearray(pathlib.Path(path).read_bytes()))
    return lambda images: np.asarray(exported.call(images))


def onnx(path: str) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {"images": images})[0]


def savedmodel(path: str) -> Run:
    import tensorflow as tf

    serve = tf.saved_model.load(path).signatures["serving_default"]

    def run(images: np.ndarray) -> np.ndarray:
        (outputs,) = serve(images=tf.constant(images)).values()
        return outputs.numpy()

    return run


def best_time(run: Run, batch: np.ndarray) -> float:
    """Returns the seconds that a batch takes, the best of three."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        run(batch)
        times.append(time.perf_counter() - start)
    return min(times)


if __name__ == "__main__":
    form, export_path, images_path, outputs_path = sys.argv[1:]
    run = {"stablehlo": stablehlo, "onnx": onnx, "savedmodel": savedmodel}[form](export_path)
    batches = dict(np.load(images_path))
    outputs = {name: run(batch) for name, batch in batches.items()}
    outputs["seconds"] = np.asarray(best_time(run, list(batches.values())[-1]))
    np.savez(outputs_path, allow_pickle=False, **outputs)
