"""Who may import whom: no layer imports a higher one, TensorFlow stays in mixer.data."""

import ast
import itertools
import os
import pathlib
import sys

import pytest
from children import one_device, run

ROOT = pathlib.Path(__file__).parent.parent

# Bottom up: a room imports from the rooms above it in this list and from itself, nothing else.
ROOMS = [
    "errors",
    "shipped",
    "sharding",
    "losses",
    "batch",
    "flops",
    "config",
    "models",
    "optimizer",
    "paper",
    "train_state",
    "train_step",
    "runtime",
    "data",
    "checkpoint",
    "reporting",
    "weights",
    "evaluation",
    "export",
    "build_data",
    "build",
    "calls",
    "train_loop",
    "sweep",
    "benchmark",
    "rehearsal",
    "vtab",
    "reproduction",
    "main",
    "console",
]


def room_of(module: str) -> int:
    """Returns the place of the module's room in the list; -1 for the package itself, as imported.

    A room's command, `python -m mixer.ROOM`, is one with `mixer.main`: it may use all rooms.
    """
    if module.endswith(".__main__"):
        return ROOMS.index("main")
    return ROOMS.index(module.split(".")[1]) if "." in module else -1


def imports_of(path: pathlib.Path, *, top_level_only: bool = False) -> set[str]:
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level_only else ast.walk(tree)
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                is_module = (ROOT / (inner.replace(".", "/") + ".py")).exists()
                names.add(inner if is_module else node.module)
    return names


MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / "mixer").rglob("*.py"))
}


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module):
    own = room_of("mixer.main" if module == "mixer" else module)  # `mixer.load` stands above all
    for imported in imports_of(MODULES[module]):
        package = imported.partition(".")[0]
        assert package not in ("configs", "scripts", "tests")
        if package == "mixer":
            assert room_of(imported) <= own, f"{module} imports {imported}"


@pytest.mark.parametrize("module", MODULES)
def test_only_the_data_package_imports_tensorflow(module):
    # The benchmark of the input measures plain tf.data next to ours; exports are for TensorFlow.
    others = ("mixer.benchmark.input", "mixer.export.savedmodel", "mixer.export.read_back")
    if not module.startswith("mixer.data.") and module not in others:
        used = {name.partition(".")[0] for name in imports_of(MODULES[module])}
        assert not used & {"tensorflow", "tensorflow_datasets"}


@pytest.mark.parametrize("module", MODULES)
def test_config_dicts_stop_at_build(module):
    used = {name.partition(".")[0] for name in imports_of(MODULES[module])}
    assert "ml_collections" not in used or module in (
        "mixer.main",
        "mixer.train_loop",  # passes it on to build
        "mixer.build",
        "mixer.config.check",
        "mixer.config.reader",
        "mixer.runtime.command",
        "mixer.rehearsal.rehearse",  # changes it until it fits
        "mixer.rehearsal.here",  # passes it on to build
    )


def test_the_path_from_main_to_the_step_and_to_the_model_is_three_plain_imports():
    path = ["mixer.main", "mixer.train_loop", "mixer.train_step"]
    for importer, imported in itertools.pairwise(path):
        assert imported in imports_of(MODULES[importer])
    path = ["mixer.main", "mixer.train_loop", "mixer.models", "mixer.models.mixer"]
    for importer, imported in itertools.pairwise(path):
        assert imported in imports_of(MODULES[importer])


def test_the_package_imports_nothing_until_it_is_used():
    assert imports_of(MODULES["mixer"], top_level_only=True) == {"typing"}
    heavy = "[n for n in sys.modules if n.partition('.')[0] in ('jax', 'flax', 'numpy', 'PIL')]"
    program = f"import sys\nfrom mixer import load\nimport mixer\nprint({heavy}, load.__name__)"
    assert run([sys.executable, "-c", program], cwd=ROOT).stdout == "[] load\n"


def test_no_file_and_no_room_imports_itself_around_a_corner():
    """No circle between files; that of rooms follows from their order."""
    seen: dict[str, bool] = {}  # module -> whether all that it imports was visited

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, f"circle: {' -> '.join([*trail, module])}"
        if module not in seen:
            for imported in imports_of(MODULES[module]) & MODULES.keys() - {"mixer"}:
                visit(imported, (*trail, module))
            seen[module] = True

    for module in MODULES:
        visit(module, ())


def test_without_tensorflow_the_model_the_step_and_the_optimizer_work():
    program = """
import sys

class NoTensorFlow:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("tensorflow", "tensorflow_datasets", "clu"):
            raise ModuleNotFoundError(f"No module named {name!r}")

sys.meta_path.insert(0, NoTensorFlow())
import jax, jax.numpy as jnp, optax
import mixer.models, mixer.optimizer, mixer.train_step, mixer.train_state, mixer.losses
import mixer.sharding, mixer.weights
import mixer.evaluation.classification, mixer.paper.reference, mixer.benchmark.throughput
from mixer.data.table import num_examples

model = mixer.models.build_model("mixer", "S/32", num_classes=3, num_blocks=1, hidden_dim=16)
optimizer = mixer.optimizer.create_adam(
    lambda step: 0.1, beta1=0.9, beta2=0.999, weight_decay=0.1, clip_global_norm=1.0,
    mu_dtype="float32")
_, init = mixer.train_state.create_train_state(
    model, optimizer, image_size=32, seed=0, averaged=False, mesh=mixer.sharding.create_mesh())
step = mixer.train_step.make_train_step(
    model, optimizer, mixer.losses.LOSSES["softmax"], num_classes=3, mixup_alpha=0.5,
    accumulation_steps=1, polyak_decay=0.0, seed=0)
batch = {"images": jnp.zeros((2, 32, 32, 3), jnp.uint8), "labels": jnp.array([[0], [1]])}
state, metrics = jax.jit(step)(init({}), batch)
assert not any(name.partition(".")[0] == "tensorflow" for name in sys.modules)
print(f"{metrics['loss']:.4f}", num_examples("imagenet2012", "train[:99%]"))
"""
    done = run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, "XLA_FLAGS": one_device()},
    )
    assert done.stdout == "1.0986 1268355\n"  # ln 3
