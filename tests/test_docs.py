"""README and docs against the code: commands, flags, config keys, links, paths, tables, figures.

A page holds commands in fenced bash blocks and in code spans. Each is parsed by the flags that its
script really defines, and its config file is loaded with the command's own overrides.
"""

import ast
import contextlib
import functools
import importlib
import json
import os
import pathlib
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from unittest import mock

import jax
import pytest
import yaml
from absl import app, flags
from ml_collections import ConfigDict
from PIL import Image

import mixer
from mixer.config import differences
from mixer.console import SCRIPTS
from mixer.losses import LOSSES
from mixer.models import MODELS
from mixer.models.bit import VERSIONS
from mixer.models.mixer import VARIANTS
from mixer.models.remat import REMAT
from mixer.models.vit import POOLS
from mixer.optimizer import DECAYS, MOMENT_DTYPES
from mixer.runtime import command
from mixer.weights.catalogue import CATALOGUE
from tests.models.tiny import EXPERIMENTS, TINY, digits_config

ROOT = pathlib.Path(__file__).parent.parent
PAGES = [
    *("README.md", "CONTRIBUTING.md"),
    *(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md")),
]
ELSEWHERE = (
    *(
        "export",
        "gcloud",
        "git",
        "jupyter",
        "sha256sum",
        "sky",
        "ssh-add",
        "tensorboard",
        "tfds",
        "uv",
    ),
    "xpk",
)
PROGRAMS = ("bash", "pip", "python", "source", "mixer-train", *SCRIPTS, *ELSEWHERE)
FINETUNING = (
    *("B/16,imagenet,448,inception_crop", "Ti/4,digits,32", "L/16,folder:PATH"),
    *("ViT-B/16,pets,384", "BiT-R50x1,pets,480", "BiT-R50x1,pets,v1"),
)
FLAG_KINDS = ("bool", "enum", "float", "integer", "list", "multi_string", "string")
# How ml_collections loads a config file.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
GOLDEN = "tests/golden/mixer_tiny.npz"
# What a Python block names, and what stands for it here, as nothing is downloaded.
STAND_INS = {
    '"B/16"': '"B/16", num_blocks=1',
    '"imagenet1k/Mixer-B_16"': f'"{GOLDEN}"',
    '"imagenet21k/Mixer-B_16"': f'"{GOLDEN}"',
    '"Mixer-B_16.npz"': f'"{GOLDEN}"',
    '"Mixer-B_16.safetensors"': '"{folder}/tiny.safetensors"',
    "(14, 14)": "(4, 4)",
    "(28, 28)": "(8, 8)",
    '{"params": loaded.params}, images)  # [1, 1000]': (
        '{"params": loaded.params}, images[:, :16, :16])  # [1, 7]'
    ),
}


@functools.cache
def read(page: str) -> str:
    return (ROOT / page).read_text()


def fenced(text: str, language: str) -> list[str]:
    blocks = re.findall(rf"^( *)```{language}\n(.*?)^ *```$", text, re.DOTALL | re.MULTILINE)
    return [re.sub(rf"^{indent}", "", code, flags=re.MULTILINE) for indent, code in blocks]


def spans(text: str) -> list[str]:
    """Returns the code spans outside of fenced blocks."""
    prose = re.sub(r"^ *```.*?^ *```$", "", text, flags=re.DOTALL | re.MULTILINE)
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)]


def commands(text: str) -> list[str]:
    lines = [
        line for code in fenced(text, "bash") for line in re.sub(r"\\\n", "", code).split("\n")
    ]
    lines += [span for span in spans(text) if re.match(rf"({'|'.join(PROGRAMS)}) ", span)]
    return [line.strip() for line in lines if line.strip()]


def config_modules() -> dict[str, object]:
    names = sorted(path.stem for path in (ROOT / "configs").glob("*.py"))
    return {name: importlib.import_module(f"configs.{name}") for name in names}


@functools.cache
def all_configs() -> list[dict[str, object]]:
    """Returns the keys and values of every config in every size."""
    found = [module.get_config() for module in config_modules().values()]
    for module in config_modules().values():
        found += map(module.get_config, getattr(module, "SIZES", []))
    found += map(config_modules()["finetune"].get_config, FINETUNING)
    found += map(digits_config, TINY | EXPERIMENTS)
    return [flat(config) for config in found]


def flat(config: ConfigDict | dict, path: str = "") -> dict[str, object]:
    """Returns every key of a config with its value; all names of splits are `NAME`."""
    found = {}
    for key, value in config.items():
        name = "NAME" if path == "eval_splits." else key
        is_section = isinstance(value, ConfigDict | dict)
        found |= flat(value, f"{path}{key}.") if is_section else {path + name: value}
    return found


def key_rows() -> dict[str, tuple[str, str, str, str]]:
    """Returns the rows of docs/configs.md: key -> type, values, meaning, source."""
    rows = re.findall(r"^\| `([\w.]+)` \|(.*)\|(.*)\|(.*)\|(.*)\|$", read("docs/configs.md"), re.M)
    assert len(rows) == len({row[0] for row in rows}), "a key is documented twice"
    return {key: tuple(cell.strip() for cell in cells) for key, *cells in rows}


@contextlib.contextmanager
def defined_flags(path: str, arguments: list[str]) -> Iterator[flags.FlagValues]:
    """Runs a script up to its `main`; yields its flags, apart from this process's."""
    assert app  # its own flags are defined by now
    own = flags.FlagValues()
    patches = [
        mock.patch.object(flags, name, functools.partial(getattr(flags, name), flag_values=own))
        for name in map("DEFINE_{}".format, FLAG_KINDS)
    ]
    patches += [
        mock.patch.object(flags, "DEFINE", functools.partial(flags.DEFINE, flag_values=own)),
        mock.patch.object(command, "config_flag", functools.partial(command.config_flag, own)),
        mock.patch.object(sys, "argv", [path, *arguments]),
        mock.patch.dict(os.environ),
    ]
    with contextlib.ExitStack() as stack, contextlib.chdir(ROOT):
        for patch in patches:
            stack.enter_context(patch)
        runpy.run_path(str(ROOT / path), run_name="documented")
        yield own


def script_of(words: list[str]) -> tuple[str, list[str]]:
    """Returns the file that `python ...` runs, and its arguments."""
    if words[1] != "-m":
        return words[1], words[2:]
    path = words[2].replace(".", "/")
    is_package = (ROOT / path).is_dir()
    return f"{path}/__main__.py" if is_package else f"{path}.py", words[3:]


def without_placeholders(argument: str) -> str:
    """Returns --config=FILE:SIZE without the SIZE; --config=CONFIG becomes a real file."""
    if argument == "--config=CONFIG":
        return "--config=configs/digits.py"
    if re.match(r"--config=.*:.*[A-Z]{4}", argument) and "folder:" not in argument:
        return argument.partition(":")[0]
    return argument


def check_python(words: list[str]) -> None:
    if words[1] == "-c":
        ast.parse(words[2])
        return
    if words[1:3] == ["-m", "pytest"]:
        check_files(words[3:])
        return
    path, arguments = script_of(words)
    assert (ROOT / path).is_file(), f"there is no {path}"
    arguments = [without_placeholders(argument) for argument in arguments]
    if "argparse" in (ROOT / path).read_text():
        help_text = (ROOT / path).read_text()
        for argument in arguments:
            assert f'"{argument.partition("=")[0]}"' in help_text, f"{path} has no {argument}"
        return
    if arguments == ["--help"]:
        return
    with defined_flags(path, arguments) as defined:
        defined([path, *arguments])
        if "config" in defined and not any(given.startswith("--goal=") for given in arguments):
            named = [argument for argument in arguments if argument.startswith("--config=")]
            assert isinstance(defined["config"].value, ConfigDict), f"cannot load {named}"
            check_overrides(arguments)


def check_overrides(arguments: list[str]) -> None:
    known = key_rows()
    for argument in arguments:
        if argument.startswith("--config."):
            key = argument.removeprefix("--config.").partition("=")[0]
            key = re.sub(r"^eval_splits\.\w+$", "eval_splits.NAME", key)
            assert key in known, f"no config has the key {key}"


def check_files(arguments: list[str]) -> None:
    for argument in arguments:
        if "/" in argument and "://" not in argument:
            assert (ROOT / argument.partition("::")[0]).exists(), f"there is no {argument}"


@functools.cache
def usage(script: str) -> str:
    command = ["bash", str(ROOT / script), "--help"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def check_bash(words: list[str]) -> None:
    path, arguments = words[1], words[2:]
    assert (ROOT / path).is_file(), f"there is no {path}"
    if path == "scripts/test.sh":
        check_files(arguments)
        return
    if arguments == ["--help"]:
        assert usage(path)
        return
    after = arguments[arguments.index("--") :] if "--" in arguments else []
    for argument in arguments[: len(arguments) - len(after)]:
        name = argument.partition("=")[0]  # the usage lists one at the start of a line
        assert re.search(rf"^ +{re.escape(name)}\b", usage(path), re.M), f"{path} has no {name}"
    if config := [argument for argument in arguments if argument.startswith("--config=")]:
        check_python(["python", "-m", "mixer.main", *config, "--workdir=w", *after[1:]])


def check_command(line: str) -> None:
    """Raises AssertionError, flags.Error or ValueError for a command that cannot work."""
    words = shlex.split(line, comments=True)
    while words and re.match(r"[A-Z_]+=", words[0]):
        words = words[1:]
    if not words:
        return
    assert words[0] in PROGRAMS, f"{words[0]} is no known program"
    if words[0].startswith("mixer-"):
        words = ["python", SCRIPTS.get(words[0], "mixer/main.py"), *words[1:]]
    if words[0] == "python":
        check_python(words)
    elif words[0] == "bash":
        check_bash(words)
    elif words[0] == "pip" and words[1:3] == ["install", "-r"]:
        assert (ROOT / words[3]).is_file(), f"there is no {words[3]}"


@functools.cache
def known_flags() -> set[str]:
    """Returns the flags of every script and program of this project."""
    names = {"help", "verbosity"}
    programs = ["mixer/main.py", "tests/peers/__main__.py", "tests/peers/train_timm.py"]
    for path in [*programs, *map(str, ROOT.glob("scripts/*.py"))]:
        with defined_flags(path, []) as defined:
            names |= set(defined)
    for path in ROOT.glob("scripts/*.sh"):
        names |= set(re.findall(r"(?<![\w-])--([a-z][\w-]*)", path.read_text()))
    for path in ROOT.glob("docs/*.py"):
        names |= set(re.findall(r'add_argument\("--([\w-]+)"', path.read_text()))
    return names


def check_span(span: str) -> None:
    """Raises AssertionError for a flag in prose that nothing defines."""
    if span.startswith(ELSEWHERE):
        return
    for flag in re.findall(r"(?<![\w-])--([\w.-]+)", span):
        if flag.startswith("config."):
            key = flag.removeprefix("config.")
            assert key.isupper() or not check_overrides([f"--{flag}"])
        else:
            assert flag in known_flags(), f"no script has the flag --{flag}"


def slugs(page: pathlib.Path) -> set[str]:
    headings = re.findall(
        r"^#+ (.*)$", re.sub(r"```.*?```", "", page.read_text(), flags=re.S), re.M
    )
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def check_links(text: str, page: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?://", target):
            continue
        name, _, anchor = target.partition("#")
        path = (ROOT / page).parent / name if name else ROOT / page
        assert path.exists(), f"there is no {target}"
        assert not anchor or anchor in slugs(path), f"{name} has no heading #{anchor}"
        if path.suffix == ".png":
            Image.open(path).verify()


def check_paths(text: str) -> None:
    for path in re.findall(r"(?<![\w/.~-])(?:mixer|configs|scripts|tests|docs)/[\w./*-]*", text):
        path = path.rstrip(".")
        assert list(ROOT.glob(path)) or (ROOT / path).exists(), f"there is no {path}"
    for name in re.findall(r"`(\w+\.py)`", text):
        found = [*ROOT.glob(f"mixer/**/{name}"), *ROOT.glob(f"*/{name}")]
        assert found, f"there is no {name}"


def python_module(path: str) -> object:
    return type("Module", (), runpy.run_path(str(ROOT / path)))


@pytest.mark.parametrize("page", PAGES)
def test_every_command_can_be_given(page):
    found = commands(read(page))
    for line in found:
        try:
            check_command(line)
        except (AssertionError, ValueError, flags.Error, SyntaxError, OSError) as error:
            pytest.fail(f"{page}: {line}\n{error}")
    for span in spans(read(page)):
        try:
            check_span(span)
        except AssertionError as error:
            pytest.fail(f"{page}: `{span}`\n{error}")


def test_the_readme_has_all_commands():
    scripts = {words[1] for words in map(shlex.split, commands(read("README.md")))}
    expected = {"quickstart.sh", "test.sh", "evaluate.py", "predict.py", "rehearse_tpu.py"}
    expected |= {
        "launch_tpu.sh",
        "convert_weights.py",
        "benchmark.py",
        "sweep.py",
        "draw_weights.py",
        "demo.py",
        "export.py",
        "reproduce.py",
        "vtab.py",
    }
    assert {f"scripts/{name}" for name in expected} | {"-m"} == scripts - {".venv/bin/activate"}


@pytest.mark.parametrize("page", PAGES)
def test_links_images_and_paths_exist(page):
    check_links(read(page), page)
    check_paths(read(page))


@pytest.mark.parametrize("page", PAGES)
def test_python_blocks_run(page, tmp_path):
    for code in fenced(read(page), "python"):
        for name, stand_in in STAND_INS.items():
            code = code.replace(name, stand_in.replace("{folder}", str(tmp_path)))
        names: dict[str, object] = {}
        with contextlib.chdir(ROOT):  # traced: no need to wait for arithmetic
            jax.eval_shape(functools.partial(exec, compile(code, page, "exec"), names))
        for name, shape in re.findall(r"^(\w+) = .*# (\[[\d, ]+\])$", code, re.M):
            assert str(list(names[name].shape)) == shape


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("python scripts/evaluat.py --weights=runs/digits", "there is no scripts/evaluat.py"),
        ("python -m mixer.mian --config=configs/digits.py", "there is no mixer/mian.py"),
        ("bash scripts/quikstart.sh", "there is no scripts/quikstart.sh"),
        ("python scripts/evaluate.py --weight=runs/digits", "Unknown command line flag 'weight'"),
        ("python scripts/evaluate.py --dataset=digits", "--weights must have a value"),
        ("python scripts/evaluate.py --weights=w --top=1", "Unknown command line flag 'top'"),
        ("python scripts/benchmark.py --mode=trian", "flag --mode=trian"),
        ("python scripts/evaluate.py --weights=w --image_size=big", "flag --image_size=big"),
        ("python -m mixer.main --config=configs/digit.py --workdir=w", "configs/digit.py"),
        ("python -m mixer.main --config=configs/finetune.py:B/17 --workdir=w", "'B/17'"),
        ("python -m mixer.main --config=configs/digits.py --workdir=w --config.lr=1", "key lr"),
        ("python -m mixer.main --config=configs/digits.py --workdir=w --config.seed=x", "seed"),
        ("bash scripts/launch_tpu.sh run --nam=mixer", "launch_tpu.sh has no --nam"),
        ("bash scripts/launch_tpu.sh rum --name=mixer", "launch_tpu.sh has no rum"),
        (
            "bash scripts/launch_tpu.sh run --config=configs/digits.py -- --config.data_dri=d",
            "key data_dri",
        ),
        ("bash scripts/torture.sh kill=3", "torture.sh has no kill"),
        ("bash scripts/test.sh -m slow tests/test_nothing.py", "no tests/test_nothing.py"),
        ("python -m pytest tests/recipe", "no tests/recipe"),
        ("python docs/write_tables.py --chek", "has no --chek"),
        ("pip install -r requirements-tpus.txt", "no requirements-tpus.txt"),
        ("mixer-predict --weight=w", "Unknown command line flag 'weight'"),
        ("pyton -m mixer.main", "pyton is no known program"),
    ],
)
def test_a_typo_in_a_command_is_found(line, message):
    with pytest.raises(
        (AssertionError, ValueError, flags.Error, OSError), match=re.escape(message)
    ):
        check_command(line)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[data](docs/dta.md)", "no docs/dta.md"),
        ("[data](docs/data.md#speeed)", "no heading #speeed"),
        ("![curves](docs/curves.png)", "no docs/curves.png"),
        ("`mixer/trian_loop.py`", "no mixer/trian_loop.py"),
        ("`lossses.py`", "no lossses.py"),
        ("`--config.mixup_alfa=0`", "key mixup_alfa"),
        ("`--print_comands`", "no script has the flag --print_comands"),
    ],
)
def test_a_typo_in_a_page_is_found(text, message):
    def check() -> None:
        check_links(text, "README.md")
        check_paths(text)
        check_span(text.strip("`"))

    with pytest.raises(AssertionError, match=re.escape(message)):
        check()


def test_every_config_key_is_documented_once():
    configs = all_configs()
    assert len(configs) > 25
    documented = key_rows()
    assert set().union(*configs) == set(documented)
    required = {key for key, row in documented.items() if "*optional*" not in row[2]}
    assert required == set(configs[0]).intersection(*configs)


def test_documented_types_and_values_are_those_of_the_configs():
    for key, (kind, values, *_) in key_rows().items():
        names = re.findall(r"`([^`]*)`", values) if re.fullmatch(r"(`[^`]+`,? ?)+", values) else []
        found = [config[key] for config in all_configs() if key in config]
        assert {type(value).__name__ for value in found} == {kind}, key
        assert not names or set(found) <= set(names), key


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("loss", LOSSES),
        ("optimizer.decay", DECAYS),
        ("optimizer.mu_dtype", MOMENT_DTYPES),
        ("optimizer.momentum_dtype", MOMENT_DTYPES),
        ("model.remat", REMAT),
        ("model.name", MODELS),
        ("model.variant", {size: None for _, sizes in MODELS.values() for size in sizes}),
        ("model.pool", POOLS),
        ("model.version", VERSIONS),
    ],
)
def test_every_allowed_name_is_documented(key, values):
    assert re.findall(r"`([^`]*)`", key_rows()[key][1]) == list(values)


def test_the_keys_that_a_resumed_run_may_change_are_marked():
    for key, row in key_rows().items():
        is_free = not differences({key: "old"}, {key: "new"})
        assert is_free == ("*free*" in row[3] or key.startswith("eval_")), key


def test_generated_tables_are_up_to_date():
    tables = python_module("docs/write_tables.py")
    for page in tables.PAGES:
        assert "<!-- table: " in read(page)
        assert tables.updated(read(page)) == read(page), "run: python docs/write_tables.py"


def test_every_published_file_is_listed_with_its_size():
    rows = re.findall(r"^\| `(\S+/\S+)` \| ([\d.]+|-) \|", read("docs/weights.md"), re.M)
    published = {name: entry.mebibytes for name, entry in CATALOGUE.items()}
    assert {name: None if size == "-" else float(size) for name, size in rows} == published


def test_recorded_results_have_a_trail():
    data = json.loads(read("docs/results.json"))
    rehearsed = [json.loads(line) for line in read("docs/rehearsals.jsonl").splitlines()]
    for run in data["measured"] + data["rehearsed"] + rehearsed:
        check_command(run["command"])
        assert f"--config={run['config']}" in run["command"]
        assert re.fullmatch(r"\d{4}-\d\d-\d\d", run["date"])
        assert "jax 0." in run["software"]
    digits = data["measured"][0]
    assert f"in {digits['train_seconds']} s of training" in read("README.md")
    shown = re.search(r"test top-1 +([\d.]+)% of (\d+) images", read("README.md"))
    assert float(shown[1]) == pytest.approx(100 * digits["correct"] / digits["count"], abs=0.005)
    assert int(shown[2]) == digits["count"]


def test_the_figure_shows_the_sizes_of_the_model():
    image = Image.open(ROOT / "docs/architecture.png")
    assert json.loads(image.text["Description"]) == {"B/16": VARIANTS["B/16"]}
    assert image.width >= 2000


def test_the_readme_is_short_and_maps_every_room():
    text = read("README.md")
    assert text.count("\n") <= 200
    rooms = {f"`mixer/{path.parent.name}/`" for path in ROOT.glob("mixer/*/__init__.py")}
    assert {room for room in rooms if room not in text} == set()
    files = {path.name for path in ROOT.glob("mixer/*.py")} - {"__init__.py"}
    assert {name for name in files if not re.search(rf"\b{name}\b", text)} == set()
    configs = {f"configs/{path.name}" for path in ROOT.glob("configs/*.py")}
    assert {name for name in configs if name not in text} == set()


def test_the_citation_is_that_of_this_version():
    citation = yaml.safe_load(read("CITATION.cff"))
    assert citation["version"] == mixer.__version__
    assert citation["license"] == "Apache-2.0"
    paper = citation["references"][0]
    names = [author["family-names"] for author in paper["authors"]]
    bibtex = re.search(r"author += \{(.*?)\}", read("README.md"), re.S)[1]
    assert [author.strip().partition(",")[0] for author in bibtex.split(" and")] == names
