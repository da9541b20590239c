"""Changes of the code that must not go unnoticed: what scripts/mutate.py makes, one at a time.

name -> file, the text there, the text instead, and the tests that must fail with it. Most take the
use of a part away, not the part: a test of the part alone would still pass.
"""

_LOOP = "mixer/train_loop.py"
_TESTS = "tests/test_train_loop.py"

MUTANTS: dict[str, tuple[str, str, str, str]] = {
    "no check of the config": (
        _LOOP,
        "    check_config(config)\n",
        "",
        f"{_TESTS} -k refused_before",
    ),
    "no check of unused keys": (
        "mixer/build.py",
        "    cfg.check_all_read()\n",
        "",
        f"{_TESTS} -k refused_before",
    ),
    "clipping by 0 is clipping": (
        "mixer/optimizer.py",
        "if global_norm else optax.identity()",
        "if global_norm >= 0 else optax.identity()",
        "tests/test_optimizer.py",
    ),
    "the decay of biases": (
        "mixer/optimizer.py",
        'path[-1].key == "kernel"',
        'path[-1].key != "scale"',
        "tests/test_optimizer.py",
    ),
    "the same augmentation in each epoch": (
        "mixer/data/input_pipeline.py",
        "return examples, step * self._order.batch_size + self._rows",
        "return examples, step * 0 + self._rows",
        "tests/data/test_input_pipeline.py -k every_epoch",
    ),
    "an augmentation for each image": (
        "mixer/data/input_pipeline.py",
        "return examples, step * self._order.batch_size + self._rows",
        "return examples, self._order.indices(step, self._rows)",
        "tests/data/test_input_pipeline.py -k another_crop",
    ),
    "the same order in each epoch": (
        "mixer/data/order.py",
        "keys = _hash(_hash(np.array(self.seed, _U64), stripe), epoch)",
        "keys = _hash(_hash(np.array(self.seed, _U64), stripe), epoch * 0)",
        "tests/data/test_order.py",
    ),
    "masks by the place on the device": (
        "mixer/models/dropout.py",
        "jax.random.fold_in(key, row), rate, shape)",
        "key, rate, shape)",
        "tests/models/test_dropout.py",
    ),
    "the same masks in each step": (
        "mixer/train_step.py",
        "jax.random.fold_in(jax.random.key(seed), state.step)",
        "jax.random.fold_in(jax.random.key(seed), 0)",
        "tests/test_train_step.py -k same_bits",
    ),
    "stochastic depth rescales": (
        "mixer/models/dropout.py",
        "1.0 - self.rate, rows, (1,) * (y.ndim - 1))",
        "1.0 - self.rate, rows, (1,) * (y.ndim - 1)) / (1.0 - self.rate)",
        "tests/models/test_dropout.py",
    ),
    "tiles in the wrong order": (
        "mixer/weights/resize.py",
        "numbers.transpose(0, 2, 1, 3)",
        "numbers.transpose(0, 2, 3, 1)",
        "tests/weights/test_resize.py",
    ),
    "the average is not evaluated": (
        "mixer/train_state.py",
        "return self.params if self.averaged_params is None else self.averaged_params",
        "return self.params",
        "tests/weights/test_load.py",
    ),
    "the average is not what a run evaluates": (
        _LOOP,
        "state.eval_params,",
        "state.params,",
        "tests/weights/test_load.py",
    ),
    "the sum of the loss over parts": (
        "mixer/train_step.py",
        "lambda x: x / steps, total",
        "lambda x: x, total",
        "tests/test_train_step.py",
    ),
    "a run without the lock of its workdir": (
        _LOOP,
        "as preemption, workdir_lock(workdir):",
        "as preemption:",
        f"{_TESTS} -k second_run",
    ),
    "other data are not compared": (
        "mixer/config/check.py",
        'if old != meta["data"].get(split)',
        "if False",
        f"{_TESTS} -k other_data",
    ),
    "the watchdog is not told of batches": (
        "mixer/runtime/preemption.py",
        "self.watchdog.beat()\n                yield taken",
        "yield taken",
        "tests/runtime/test_watchdog.py tests/test_train_loop.py",
    ),
    "the first batch is not watched": (
        _LOOP,
        'with preemption.watchdog.phase("reading the first batch"):',
        "if True:",
        "tests/runtime/test_watchdog.py tests/test_train_loop.py",
    ),
    "training is not watched": (
        _LOOP,
        '                watchdog.phase("training"),\n',
        "",
        "tests/runtime/test_watchdog.py tests/test_train_loop.py",
    ),
    "a heartbeat of 6,000 s": (
        "mixer/runtime/distributed.py",
        "_TIMEOUT_SECONDS = 60",
        "_TIMEOUT_SECONDS = 6000",
        "tests/runtime/test_distributed.py -k lost_after_a_minute",
    ),
    "features of a dataset name any module": (
        "mixer/data/datasets.py",
        'if not value.startswith("tensorflow_datasets."):',
        "if not value:",
        "tests/data/test_datasets.py",
    ),
    "labels by position": (
        "mixer/evaluation/evaluate_weights.py",
        "len(names), mesh, logits_of)",
        "len(names), mesh)",
        "tests/evaluation/test_evaluate_weights.py",
    ),
    "weights of a run are not checked": (
        "mixer/weights/weights.py",
        '        check_finite(flax.traverse_util.flatten_dict(params, sep="/"))\n',
        "",
        "tests/weights/test_files.py tests/weights/test_load.py tests/weights/test_run_models.py",
    ),
    "a transposed array is written as its memory lies": (
        "mixer/weights/files.py",
        "np.ascontiguousarray(array)",
        "array",
        "tests/weights/test_every_family.py -k metadata",
    ),
    "the GELU of a run is not written to its file": (
        "mixer/weights/load.py",
        "overwrite=overwrite, gelu_approximate=gelu)",
        "overwrite=overwrite)",
        "tests/weights/test_every_family.py",
    ),
    "JSON's lists are fields of a model": (
        "mixer/weights/weights.py",
        "tuple(value) if isinstance(value, list) else value",
        "value",
        "tests/weights/test_every_family.py",
    ),
}
