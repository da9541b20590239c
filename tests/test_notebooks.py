"""The notebooks: no outputs are kept, imports resolve; run offline, they give the right values."""

import ast
import importlib
import importlib.util
import json
import pathlib
import re

import pytest
from children import one_device

from tests.test_docs import check_command, check_links, check_paths, commands

ROOT = pathlib.Path(__file__).parent.parent
FOLDER = ROOT / "docs" / "notebooks"
NAMES = [path.stem for path in sorted(FOLDER.glob("[0-9]_*.ipynb"))]
CLEAR = "clear it with the command in docs/notebooks/README.md"
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
# After a quote, a space or a bracket: /home/me/images. Not: B/16, runs/digits, https://arxiv.org.
ABSOLUTE = re.compile(r"""(?:^|(?<=[\s"'`(\[{=]))(?:/\w[\w.-]*/|[A-Za-z]:\\)""", re.M)
OPTIONAL = ("IPython",)  # come with the extra `notebooks`
SECONDS = 120  # of processor time, by a notebook and the programs that it starts

# Of each notebook: pictures that it shows, and values to look at once it has run.
PICTURES = {"1": 4, "2": 2, "3": 3, "4": 3, "5": 3}
VALUES = {
    "1": """dict(
        logits=float(jnp.abs(ours - jax.jit(model.apply)({"params": params}, images)).max()),
        largest=float(jnp.abs(ours).max()),
        features=features.shape,
        reached=[int(cells.sum()) for cells in reached.values()],
        totals=totals)""",
    "2": """dict(
        top1=float(accuracy), in_the_run=metrics["test/top1"], same_class=float(same_class),
        colour=[colour(fresh), colour(loaded.params)],
        frequency=[frequency(fresh), frequency(loaded.params)],
        published=published is not None)""",
    "3": """dict(
        tuned=tuned["test/top1"], scratch=scratch["test/top1"], evaluated=result["top1"],
        predicted=float(accuracy), count=result["count"], counted=sum(confusion.counts.values()),
        classes=model.class_names)""",
    "4": """dict(
        exact=exact_error, naive=naive_error, before=before["test/top1"],
        untuned={" ".join(key): float(value) for key, value in untuned.items()},
        tuned=[tuned["test/top1"], tuned_naive["test/top1"]], on=on, off=off)""",
    "5": """dict(
        first=first, start=float(START), last=last, code=process.returncode,
        resumed=resumed.stdout.count("Resuming"), same=[same_parameters, same_metrics],
        arrays=len(jax.tree.leaves(same)))""",
}
USED = """
import json, resource
used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
used = sum(each.ru_utime + each.ru_stime for each in used)
print(json.dumps({"seconds": used, **VALUES}))
"""


def cells(name: str, kind: str) -> list[str]:
    """Returns the text of the cells of that type."""
    found = json.loads((FOLDER / f"{name}.ipynb").read_text())["cells"]
    return ["".join(cell["source"]) for cell in found if cell["cell_type"] == kind]


def python(name: str) -> ast.Module:
    """Returns the code of a notebook, without the lines for Jupyter."""
    code = "\n".join(cells(name, "code"))
    return ast.parse(re.sub(r"^%.*$", "", code, flags=re.M))


def test_there_are_five():
    assert [name.partition("_")[0] for name in NAMES] == list(VALUES) == list(PICTURES)


@pytest.mark.parametrize("name", NAMES)
def test_it_holds_what_its_author_wrote_and_nothing_else(name):
    text = (FOLDER / f"{name}.ipynb").read_text()
    notebook = json.loads(text)
    assert notebook["metadata"] == METADATA, CLEAR
    for number, cell in enumerate(notebook["cells"]):
        kept = {"cell_type", "id", "metadata", "source"}
        if cell["cell_type"] == "code":
            kept |= {"execution_count", "outputs"}
            assert cell["outputs"] == [], f"cell {number} has outputs: {CLEAR}"
            assert cell["execution_count"] is None, f"cell {number} has a number: {CLEAR}"
        assert set(cell) == kept
        assert cell["metadata"] == {}, f"cell {number} has metadata: {CLEAR}"
    # As Jupyter writes it, so that a difference is an edit.
    assert text == json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
    for source in cells(name, "code") + cells(name, "markdown"):
        assert not (found := ABSOLUTE.search(source)), source[found.start() :][:60]


@pytest.mark.parametrize("name", NAMES)
def test_it_has_the_format_of_jupyter(name):
    nbformat = pytest.importorskip("nbformat", reason="needs the extra notebooks")
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=nbformat.NO_CONVERT)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    nbformat.validate(notebook)


@pytest.mark.parametrize("name", NAMES)
def test_every_import_resolves(name):
    found = 0
    for node in ast.walk(python(name)):
        if isinstance(node, ast.Import):
            modules, names = [alias.name for alias in node.names], []
        elif isinstance(node, ast.ImportFrom):
            modules, names = [node.module], [alias.name for alias in node.names]
        else:
            continue
        for module in modules:
            found += 1
            if module.partition(".")[0] in OPTIONAL:
                continue
            assert importlib.util.find_spec(module), f"there is no module {module}"
            for wanted in names:
                has = hasattr(importlib.import_module(module), wanted)
                assert has or importlib.util.find_spec(f"{module}.{wanted}")
    assert found >= 8


@pytest.mark.parametrize("name", NAMES)
def test_its_text_names_what_exists(name):
    text = "\n\n".join(cells(name, "markdown"))
    check_links(text, f"docs/notebooks/{name}.ipynb")
    check_paths(text)
    for line in commands(text):
        check_command(line)


@pytest.mark.parametrize(
    ("text", "is_absolute"),
    [
        ('train(config, "/home/me/runs")', True),
        ("see `/data/mine/a.png`", True),
        ("open(r'C:\\images')", True),
        ("/tmp/a", True),
        ("[paper](https://arxiv.org/abs/2105.01601), B/16, `runs/digits`, x / y / z", False),
        ('f"{here}/mine/train", "~/.cache/mixer/weights"', False),
    ],
)
def test_an_absolute_path_is_found(text, is_absolute):
    assert bool(ABSOLUTE.search(text)) == is_absolute


@pytest.fixture
def executed(tmp_path, monkeypatch):
    """Returns a function that runs a notebook as a new user would, offline, for its `VALUES`."""
    for package in ("nbclient", "ipykernel", "nbformat"):
        pytest.importorskip(package, reason="needs the extra notebooks")
    import nbclient
    import nbformat

    for variable in ("JAX_COMPILATION_CACHE_DIR", "NPROC", "TFDS_DATA_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    for variable in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")  # nothing listens there
    for variable in ("HOME", "TMPDIR", "IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "MPLCONFIGDIR"):
        monkeypatch.setenv(variable, str(tmp_path))
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("XLA_FLAGS", one_device())

    def execute(number):
        (path,) = FOLDER.glob(f"{number}_*.ipynb")
        notebook = nbformat.read(path, as_version=4)
        code = USED.replace("VALUES", VALUES[number])
        notebook.cells.append(nbformat.v4.new_code_cell(code))
        where = {"metadata": {"path": str(tmp_path)}}
        nbclient.NotebookClient(notebook, timeout=1200, resources=where).execute()
        outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
        pictures = [output for output in outputs if "image/png" in output.get("data", {})]
        assert len(pictures) == PICTURES[number]
        values = json.loads(outputs[-1]["text"])
        assert values.pop("seconds") < SECONDS
        return values

    return execute


@pytest.mark.slow
def test_the_model(executed):
    values = executed("1")
    assert values["logits"] < 1e-5 * values["largest"]
    assert values["features"] == [512]
    assert values["reached"][:3] == [1, 196, 512]
    assert values["reached"][3] > 0.99 * 196 * 512
    assert values["totals"]["B/16"] == 59


@pytest.mark.slow
def test_weights(executed):
    values = executed("2")
    assert values["top1"] > 0.85
    assert values["top1"] == pytest.approx(values["in_the_run"], abs=0.003)
    assert values["same_class"] > 0.8
    (fresh, trained), (fresh_frequency, frequency) = values["colour"], values["frequency"]
    assert fresh == pytest.approx(2 / 3, abs=0.03)  # of noise in three colours
    assert trained < 0.2
    assert frequency < 0.8 * fresh_frequency
    assert not values["published"]  # offline


@pytest.mark.slow
def test_fine_tuning_on_a_folder(executed):
    values = executed("3")
    assert values["tuned"] > 0.8
    assert values["tuned"] > values["scratch"] + 0.03
    assert values["evaluated"] == pytest.approx(values["tuned"], abs=1e-6)
    assert values["predicted"] == pytest.approx(values["tuned"], abs=1e-6)
    assert values["count"] == values["counted"] == 836
    assert len(values["classes"]) == 10


@pytest.mark.slow
def test_change_of_resolution(executed):
    values = executed("4")
    assert values["exact"] < 1e-5
    assert values["naive"] > 0.05
    untuned = values["untuned"]
    assert untuned["resized exactly four times"] == pytest.approx(values["before"], abs=1e-6)
    assert untuned["interpolated four times"] < 0.5
    assert min(values["tuned"]) > 0.85
    assert values["on"] > values["off"] > 0.001


@pytest.mark.slow
def test_pretraining_in_miniature(executed):
    values = executed("5")
    assert values["start"] == pytest.approx(3.2508, abs=1e-4)  # ln(1 + e^2.2) + 9 ln(1 + e^-2.2)
    assert values["first"] == pytest.approx(values["start"], abs=0.05)
    assert values["last"]["test/top1"] > 0.93
    assert values["last"]["test/count"] == 364
    assert values["code"] == -9
    assert values["resumed"] == 1
    assert values["same"] == [True, True]
    assert values["arrays"] == 54
