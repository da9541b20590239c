"""One task of each group from its data to the report, and what must not happen on the way."""

import csv
import dataclasses
import json
import math
import pathlib
import re

import jax
import pytest
from etils import epath

from mixer import build
from mixer.data import records
from mixer.data.datasets import open_dataset
from mixer.data.vtab import TASKS
from mixer.reporting.metrics import is_evaluation, read_metrics
from mixer.runtime.workdir_lock import folder_lock
from mixer.sharding import create_mesh
from mixer.vtab import run
from mixer.vtab.miniature import shrink, with_random_weights
from mixer.vtab.plan import RATE, Vtab, parse_changes
from mixer.vtab.recipe import Recipe
from mixer.vtab.report import read_summary

ROOT = pathlib.Path(__file__).parent.parent.parent
CONFIG = str(ROOT / "configs" / "vtab.py")
CHOSEN = ("cifar100", "eurosat", "smallnorb-elevation")  # one of each group
MISSING = "resisc45"
# How a config file is loaded: mixer/runtime/command.py.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")


@dataclasses.dataclass
class Finished:
    vtab: Vtab
    failed: dict[str, str]
    shown: str
    files_read: dict[pathlib.Path, set[str]]  # folder of a run -> names of files of examples


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Finished:
    """The miniature over three tasks with data and one without; what each run has read."""
    workdir = tmp_path_factory.mktemp("runs") / "vtab"
    vtab = with_random_weights(Vtab(workdir, "", Recipe("", {}), CONFIG, tasks=CHOSEN))
    vtab = shrink(vtab, workdir / "mock" / "data")
    vtab = dataclasses.replace(vtab, tasks=(*CHOSEN, MISSING), seeds=(3,))
    files_read: dict[pathlib.Path, set[str]] = {}
    shown: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        read = records.ArrayRecords.read

        def noted(self, indices):
            places = {self._files.position(index)[0] for index in indices.tolist()}
            names = {pathlib.Path(self._files.paths[place]).name for place in places}
            files_read[running[-1]] |= names
            return read(self, indices)

        running: list[pathlib.Path] = []

        def train(sweep, one, log):
            running.append(sweep.folder(one))
            files_read[running[-1]] = set()
            return run.train_run_here(sweep, one, log)

        patch.setattr(records.ArrayRecords, "read", noted)
        patch.setattr(build, "create_mesh", lambda **_: create_mesh(jax.devices()[:1]))
        patch.setattr("builtins.print", lambda *text, **_: shown.append(" ".join(map(str, text))))
        progress = run.read_all(vtab)
        missing = run.find_missing(vtab, progress)
        print(run.overview(vtab, progress, missing))
        failed = run.run_all(vtab, progress, missing, trainer=train)
    return Finished(vtab, failed, "\n".join(shown), files_read)


def test_every_task_is_tuned_and_then_trained(finished):
    assert finished.failed == {}
    folder = finished.vtab.workdir
    for task in CHOSEN:
        assert len(list((folder / task / "tune").glob("learning_rate=*/seed=3"))) == 2
        (final,) = (folder / task / "final").glob("learning_rate=*")
        config = json.loads((final / "seed=3" / "config.json").read_text())
        assert config["dataset"] == f"vtab/{task}"
        assert config["train_split"] == "train800[:24]+val200[:16]"
        assert config["eval_splits"] == {"test": "test[:24]"}
        assert config["image_size"] == (16 if TASKS[task].is_small else 32)


def test_the_best_on_val200_is_trained_again(finished):
    for task in CHOSEN:
        folder = finished.vtab.workdir / task
        scores = {
            path.parent.name: lines[-1]["val200/top1"]
            for path in (folder / "tune").glob("learning_rate=*/seed=3")
            if (lines := [x for x in read_metrics(epath.Path(path)) if is_evaluation(x)])
        }
        (final,) = (folder / "final").glob("learning_rate=*")
        assert len(scores) == 2
        assert scores[final.name] == max(scores.values())
        row = read_summary(finished.vtab.workdir)["tasks"][task]
        assert row["val"] == scores[final.name]
        assert f"learning_rate={row['learning_rate']}" == final.name


def test_no_test_image_is_read_while_a_learning_rate_is_chosen(finished):
    data_dir = finished.vtab.changes["data_dir"]
    tuning = 0
    for folder, names in finished.files_read.items():
        task = folder.relative_to(finished.vtab.workdir).parts[0]
        pieces = open_dataset(f"vtab/{task}", "test[:24]", data_dir).pieces
        of_test = {pathlib.Path(piece.place).name for piece in pieces}
        assert names
        assert len(of_test) == 1
        tuning += "tune" in folder.parts
        assert names.isdisjoint(of_test) == ("tune" in folder.parts)
    assert tuning == 2 * len(CHOSEN)


def test_a_task_without_data_is_not_run_and_stops_no_other(finished):
    summary = read_summary(finished.vtab.workdir)
    states = {task: summary["tasks"][task]["state"] for task in (*CHOSEN, MISSING, "dtd")}
    assert states == {**dict.fromkeys(CHOSEN, "done"), MISSING: "not run", "dtd": "not run"}
    assert "put the folder NWPU-RESISC45" in summary["tasks"][MISSING]["problem"]
    assert summary["tasks"]["dtd"]["problem"] == ""
    assert summary["mean"] is None
    assert (summary["done"], summary["groups"]["specialized"]["done"]) == (3, 1)
    text = (finished.vtab.workdir / "vtab.md").read_text()
    assert "| resisc45              | specialized | -             | -      | not run" in text
    assert f"* {MISSING}: Expected the dataset 'vtab/resisc45', resisc45:3.0.0," in text
    assert not (finished.vtab.workdir / MISSING).exists()


def test_what_is_done_and_left_is_shown(finished):
    shown = finished.shown
    assert "4 tasks, 0 done, 9 runs to do.\nNot run: resisc45: Expected the dataset" in shown
    assert "\n[1 of 3] cifar100\n" in shown
    assert re.search(r"\n\[2 of 3\] eurosat, about 0:\d\d:\d\d; ", shown)
    assert " left for all\n" in shown


def test_the_csv_has_the_scores_of_every_seed(finished):
    with (finished.vtab.workdir / "vtab.csv").open() as file:
        rows = {row["task"]: row for row in csv.DictReader(file) if row["task"] != "mean"}
    assert list(rows) == list(TASKS)
    summary = read_summary(finished.vtab.workdir)
    for task in CHOSEN:
        score = float(rows[task]["test seed 3"])
        assert [score] == summary["tasks"][task]["test"]
        assert float(rows[task]["mean"]) == score
    assert rows[MISSING]["test seed 3"] == ""


def test_what_is_done_is_not_run_again(finished, capsys):
    def refuse(sweep, one, log):
        raise AssertionError(f"{one} is done")

    before = (finished.vtab.workdir / "vtab.json").read_text()
    progress = run.read_all(finished.vtab)
    missing = run.find_missing(finished.vtab, progress)
    assert list(missing) == [MISSING]
    assert run.run_all(finished.vtab, progress, missing, trainer=refuse) == {}
    assert (finished.vtab.workdir / "vtab.json").read_text() == before
    assert "3 done, 0 runs to do" in run.overview(finished.vtab, progress, missing)


def test_other_weights_or_another_recipe_are_refused_in_the_same_folder(finished):
    other = dataclasses.replace(finished.vtab, weights="elsewhere.npz")
    with pytest.raises(ValueError, match=r"(?s)another config:.*init_from: '.*tiny.npz' before"):
        run.read_all(other)
    other = dataclasses.replace(finished.vtab, option="appendix_c", changes={
        **finished.vtab.changes, "optimizer.warmup_steps": 2})  # fmt: skip
    with pytest.raises(ValueError, match=r"(?s)another config:.*optimizer\.warmup_steps: 1 before"):
        run.read_all(other)


@pytest.fixture
def vtab(finished, tmp_path) -> Vtab:
    """The same with one task, in a new folder."""
    return dataclasses.replace(finished.vtab, workdir=tmp_path / "vtab", tasks=("cifar100",))


def write_result(sweep, one, log):
    """Stands in for a training: the best rate is 0.01, on test images each seed adds 1%."""
    name, seed = one
    distance = abs(math.log10(sweep.combinations[name][RATE]) + 2)
    config = sweep.run_config(one)
    (split,) = config["eval_splits"]
    line = {"step": config["num_steps"], f"{split}/top1": 0.9 - distance / 10 + seed / 100}
    (sweep.folder(one) / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    (sweep.folder(one) / "config.json").write_text(json.dumps(config))
    return 0


def test_the_best_rate_is_trained_with_every_seed_and_resumed(tmp_path, capsys):
    vtab = Vtab(tmp_path / "w", "W.npz", Recipe("L/16", {}), CONFIG, tasks=("dtd", "svhn"))
    trained = []

    def train(sweep, one, log):
        trained.append("/".join(sweep.folder(one).parts[-4:]))
        if len(trained) == 5:
            raise KeyboardInterrupt
        return write_result(sweep, one, log)

    with pytest.raises(KeyboardInterrupt):
        run.run_all(vtab, {}, {}, trainer=train)
    assert trained == [
        *(f"dtd/tune/learning_rate={rate}/seed=0" for rate in (0.003, 0.01, 0.03)),
        *(f"dtd/final/learning_rate=0.01/seed={seed}" for seed in (0, 1)),
    ]
    progress = run.read_all(vtab)
    assert "2 tasks, 0 done, 8 runs to do." in run.overview(vtab, progress, {})
    assert run.run_all(vtab, progress, {}, trainer=train) == {}
    assert trained[5:7] == [f"dtd/final/learning_rate=0.01/seed={seed}" for seed in (1, 2)]
    assert trained[7:] == [
        *(f"svhn/tune/learning_rate={rate}/seed=0" for rate in (0.003, 0.01, 0.03)),
        *(f"svhn/final/learning_rate=0.01/seed={seed}" for seed in (0, 1, 2)),
    ]
    row = read_summary(vtab.workdir)["tasks"]["svhn"]
    assert row["test"] == pytest.approx([0.9, 0.91, 0.92])
    assert (row["mean"], row["std"]) == (pytest.approx(0.91), pytest.approx(0.01))
    assert (row["learning_rate"], row["val"]) == (0.01, 0.9)


def test_a_failed_run_is_named_and_the_report_is_written(vtab, capsys):
    def fail(sweep, one, log):
        log.write_text("FloatingPointError: Step 2 is not finite: loss nan.")
        (sweep.folder(one) / "config.json").write_text(json.dumps(sweep.run_config(one)))
        return 1

    failed = run.run_all(vtab, {}, {}, trainer=fail)
    assert list(failed) == ["cifar100"]
    assert failed["cifar100"].startswith(f"failed: {vtab.workdir}/cifar100/tune/learning_rate=0.01")
    assert "Step 2 is not finite" in capsys.readouterr().out
    row = read_summary(vtab.workdir)["tasks"]["cifar100"]
    assert (row["state"], row["problem"]) == ("not complete", failed["cifar100"])


def test_a_task_that_cannot_begin_does_not_stop_the_next(vtab, capsys):
    def refuse(sweep, one, log):
        log.write_text("error: Expected other weights.")
        return 1

    both = dataclasses.replace(vtab, tasks=("cifar100", "eurosat"))
    failed = run.run_all(both, {}, {}, trainer=refuse)
    assert list(failed) == ["cifar100", "eurosat"]
    assert "the other 1 runs are not started" in failed["eurosat"]


def test_no_data_at_all_are_an_error_before_anything_is_written(vtab, tmp_path):
    nothing = dataclasses.replace(vtab, changes={**vtab.changes, "data_dir": str(tmp_path / "no")})
    with pytest.raises(ValueError, match=r"(?s)at least one of 1 tasks.*cifar100: .*cifar100:3\.0"):
        run.find_missing(nothing, run.read_all(nothing))
    assert not vtab.workdir.exists()


def test_the_folder_of_something_else_is_refused(vtab):
    vtab.workdir.mkdir()
    (vtab.workdir / "thesis.tex").touch()
    with pytest.raises(ValueError, match=r"or that of scripts/vtab\.py; .* holds thesis\.tex of"):
        run.read_all(vtab)


def test_two_programs_in_one_folder_are_refused(vtab):
    vtab.workdir.mkdir()
    with (
        folder_lock(vtab.workdir, "run"),
        pytest.raises(ValueError, match="Another run is at work"),
    ):
        run.run_all(vtab, {}, {}, trainer=run.train_run_here)


def test_the_runs_of_a_task_at_full_size():
    vtab = Vtab(pathlib.Path("w"), "W.npz", Recipe("L/16", {}), CONFIG, option="appendix_c")
    tuning, final = vtab.tuning("dtd"), vtab.final("dtd", 0.03)
    assert tuning.config_file == f"{CONFIG}:L/16,dtd,appendix_c,tune"
    assert [c[RATE] for c in tuning.combinations.values()] == [0.003, 0.01, 0.03]
    assert (tuning.seeds, tuning.select, tuning.config["eval_splits"]) == (
        *((0,), "val200/top1", {"val200": "val200"}),
    )
    assert final.config_file == f"{CONFIG}:L/16,dtd,appendix_c"
    assert (final.seeds, final.report) == ((0, 1, 2), "test/top1")
    assert final.config["train_split"] == "train800val200"
    assert final.config["optimizer"]["decay"] == "cosine"
    command = final.command(("learning_rate=0.03", 2))
    assert command[-3:] == [
        *("--config.init_from=W.npz", "--config.optimizer.learning_rate=0.03", "--config.seed=2"),
    ]


def test_keys_that_leave_the_protocol_can_be_set():
    changes = parse_changes(["accumulation_steps=8", "mesh.fsdp=1"], CONFIG)
    assert changes == {"accumulation_steps": 8, "mesh.fsdp": 1}
    assert parse_changes([], CONFIG) == {}
    vtab = Vtab(pathlib.Path("w"), "W.npz", Recipe("B/16", {}), CONFIG, changes=changes)
    assert vtab.final("dtd", 0.01).config["accumulation_steps"] == 8


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("batch_size=64", r"marked free in docs/configs\.md, .*; got 'batch_size=64'"),
        ("train_split=test", "got 'train_split=test'"),
        ("init_from=other.npz", "no flag of its own; got 'init_from=other.npz'"),
        ("accumulate=8", "got 'accumulate=8'"),
        ("accumulation_steps=8,4", "Expected one value for each --set; got accumulation_steps=8,4"),
        ("accumulation_steps=x", "like the config's 1; got 'x'"),
    ],
)
def test_keys_that_change_the_protocol_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse_changes([text], CONFIG)
