"""Eight virtual CPU devices for every test; must be set before JAX starts its backend."""

import contextlib
import inspect
import os
import pathlib
import runpy
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

# With fewer threads than virtual devices, XLA's CPU collectives wait for each other for ever.
os.environ["NPROC"] = "16"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
# What one test has compiled no other compiles again, nor do the programs that tests start. Set by
# the first process; those that pytest-xdist starts inherit it.
if "MIXER_TESTS_CACHE" not in os.environ:
    _cache = tempfile.TemporaryDirectory(prefix="mixer-tests-")  # deleted at exit
    os.environ["MIXER_TESTS_CACHE"] = os.environ["JAX_COMPILATION_CACHE_DIR"] = _cache.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.0"

# Started with `nohup` or `&`, the tests ignore Ctrl-C, and so would the programs that they start.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import jax
import numpy as np
import psutil
import pytest
from absl import flags, logging
from ml_collections import ConfigDict

from configs import digits
from mixer.models.mixer import MlpMixer

ROOT = pathlib.Path(__file__).parent.parent
# With them XLA's CPU compiler takes half of the time, if it does not optimize.
OLDER_EMITTERS = "--xla_cpu_use_fusion_emitters=false"
# The longest, each several processes: first, so that no worker is left alone with one at the end.
FIRST = ("test_multihost.py", "test_end_to_end.py", "test_preemption.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in FIRST)
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.timeout(3600))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    is_full = any(item.get_closest_marker(name) for name in ("slow", "fully_compiled"))
    with contextlib.nullcontext() if is_full else quick_compilation():
        return (yield)


@contextlib.contextmanager
def quick_compilation() -> Iterator[None]:
    """Lets XLA compile in a third of the time, here and in the programs that a test starts.

    The computation is the same, its machine code slower and rounded otherwise. Tests of rounding
    or speed, and all slow ones, do without.
    """
    options = jax._src.compiler.get_compile_options

    def with_older_emitters(*args: Any, **kwargs: Any) -> Any:
        kwargs["env_options_overrides"] = {
            "xla_cpu_use_fusion_emitters": False,
            **(kwargs.get("env_options_overrides") or {}),
        }
        return options(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")
        patch.setenv("XLA_FLAGS", f"{os.environ['XLA_FLAGS']} {OLDER_EMITTERS}")
        patch.setattr(jax._src.compiler, "get_compile_options", with_older_emitters)
        jax.config.update("jax_disable_most_optimizations", True)
        yield
        jax.config.update("jax_disable_most_optimizations", False)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Ends the processes that tests have left behind, and fails the tests if there are any."""
    if hasattr(session.config, "workerinput"):
        return  # the process that started the workers looks, once they have ended
    deadline = time.monotonic() + 5
    while (left := processes_left()) and time.monotonic() < deadline:
        time.sleep(0.1)
    for process, command in left.items():
        terminal = session.config.get_terminal_writer()
        terminal.line(f"\nA test left a process behind: {process.pid}, {command}", red=True)
        process.kill()
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def processes_left() -> dict[psutil.Process, str]:
    """Returns those that inherited the folder of this session's cache, with their commands."""
    found = {}
    for process in psutil.process_iter():
        try:
            is_ours = process.environ().get("MIXER_TESTS_CACHE") == os.environ["MIXER_TESTS_CACHE"]
            command = " ".join(process.cmdline())
        except psutil.Error:
            continue  # has ended, or is another user's
        # Python's own tracker of shared memory ends with this process.
        if is_ours and process.pid != os.getpid() and "resource_tracker" not in command:
            found[process] = command
    return found


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with the digits, prepared once."""
    from mixer.data.datasets import open_dataset

    folder = str(tmp_path_factory.mktemp("tensorflow_datasets"))
    open_dataset("digits", "train", folder)
    return folder


@pytest.fixture(scope="session")
def write_mock_dataset() -> Callable[..., None]:
    """Writes random examples in the format, the place and with the features of a row.

    Arguments: the name of the row, the folder, the format of the files, how many (six). They are
    the split `train`, made by TFDS from its own metadata where it has the dataset.
    """
    import tensorflow as tf
    import tensorflow_datasets as tfds

    from mixer.data.table import DATASETS

    def write(name: str, data_dir: str, file_format: str, count: int = 6) -> None:
        row = DATASETS[name]
        if name in ("imagenet21k", "jft300m"):  # TFDS has no builder
            features = tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(encoding_format="jpeg"),
                    "label": tfds.features.ClassLabel(num_classes=row.num_classes),
                }
            )
            rng = np.random.default_rng(0)
            pixels = rng.integers(0, 256, (count, 40, 50, 3), np.uint8)
            examples = {"image": pixels, "label": rng.integers(0, row.num_classes, count)}
            dataset = tf.data.Dataset.from_tensor_slices(examples)
            version = "1.0.0"
        else:
            builder = tfds.builder(row.tfds_name, data_dir=data_dir)
            version = str(builder.version)
            keys = (row.image_key, row.label_key, "file_name")
            keys = [key for key in keys if key in builder.info.features]
            features = tfds.features.FeaturesDict({key: builder.info.features[key] for key in keys})
            with tfds.testing.mock_data(num_examples=count):
                dataset = builder.as_dataset(split="train").map(lambda e: {k: e[k] for k in keys})
        base, _, config = row.tfds_name.partition("/")
        tfds.dataset_builders.store_as_tfds_dataset(
            name=base,
            config=config or None,
            version=version,
            features=features,
            split_datasets={"train": dataset},
            data_dir=data_dir,
            file_format=file_format,
        )

    return write


@pytest.fixture
def call(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Calls a script in this process, which has its imports, and returns what it prints."""

    def call(script: str, *arguments: object) -> str:
        before, verbosity = set(flags.FLAGS), logging.get_verbosity()
        main = runpy.run_path(str(ROOT / "scripts" / script))["main"]
        takes_arguments = bool(inspect.signature(main).parameters)
        try:
            monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])  # which --config reads
            _, *others = flags.FLAGS(sys.argv)
            main(*[others] * takes_arguments)
        finally:
            logging.set_verbosity(verbosity)
            for name in set(flags.FLAGS) - before:
                delattr(flags.FLAGS, name)
        return capsys.readouterr().out

    return call


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs draw neither images nor curves, which takes seconds (test_what_a_run_writes does)."""
    for name in ("draw_images", "draw_curves"):
        monkeypatch.setattr(f"mixer.reporting.pictures.{name}", lambda *args: None)


@pytest.fixture
def on_one_device(monkeypatch: pytest.MonkeyPatch, one_device_mesh: jax.sharding.Mesh) -> None:
    """Runs use one of the eight devices, for which they compile sooner."""
    monkeypatch.setattr("mixer.build.create_mesh", lambda **sizes: one_device_mesh)


@pytest.fixture(scope="module")
def parts_built_once() -> Iterator[None]:
    """Lets the runs of a file, all with one model, share its compilation; they draw nothing."""
    from mixer import build, train_loop
    from mixer.reporting import pictures
    from mixer.sharding import create_mesh

    def once(function: Callable) -> Callable:
        results: list[Any] = []

        def first_result(*args: object, **kwargs: object) -> object:
            if not results:
                results.append(function(*args, **kwargs))
            return results[0]

        return first_result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "create_mesh", lambda **sizes: create_mesh(jax.devices()[:1]))
        for name in ("create_training", "compile_call"):
            patch.setattr(train_loop, name, once(getattr(train_loop, name)))
        for name in ("draw_images", "draw_curves"):
            patch.setattr(pictures, name, lambda *args: None)
        yield


@pytest.fixture(scope="session")
def make_digits_config(data_dir: str) -> Callable[[], ConfigDict]:
    """Makes the config of the quick start with a small model and a short run of 20 steps."""

    def make() -> ConfigDict:
        config = digits.get_config()
        config.data_dir = data_dir
        config.num_epochs = 20 * 64 / 1433
        config.model.num_blocks = 2
        config.model.hidden_dim = 16
        config.model.tokens_mlp_dim = 8
        config.model.channels_mlp_dim = 32
        config.optimizer.warmup_steps = 5
        config.log_every = 4
        config.eval_every = 20
        config.checkpoint_every = 10
        return config

    return make


@pytest.fixture
def digits_config(make_digits_config: Callable[[], ConfigDict]) -> ConfigDict:
    return make_digits_config()


@pytest.fixture(scope="session")
def tiny_mixer() -> MlpMixer:
    """Two blocks on 8 x 8 images with 2 x 2 patches, stochastic depth and dropout on."""
    return MlpMixer(
        num_classes=10,
        num_blocks=2,
        patch_size=2,
        hidden_dim=16,
        tokens_mlp_dim=8,
        channels_mlp_dim=32,
        stochastic_depth_rate=0.1,
        dropout_rate=0.1,
    )


@pytest.fixture(scope="session")
def one_device_mesh() -> jax.sharding.Mesh:
    from mixer.sharding import create_mesh

    return create_mesh(jax.devices()[:1])
