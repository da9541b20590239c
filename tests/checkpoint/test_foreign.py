"""What a run has not written stays where it is, whatever the run does, and as it is."""

import pathlib
import shutil

import jax
import pytest
from test_damage import ABSTRACT, edit_meta, small_state, truncate

from mixer import train_loop
from mixer.checkpoint.folder import complete_steps, foreign_names
from mixer.checkpoint.restore import check_free, restore_newest
from mixer.checkpoint.save import Checkpoints
from mixer.reporting.metrics import read_metrics


@pytest.fixture
def config(make_digits_config, parts_built_once):
    """Checkpoints at 4, 8, 12, ... of 20 steps, of which two stay."""
    config = make_digits_config()
    config.checkpoint_every, config.keep_checkpoints = 4, 2
    return config


@pytest.fixture(scope="module")
def finished(make_digits_config, parts_built_once, tmp_path_factory) -> pathlib.Path:
    config = make_digits_config()
    config.checkpoint_every, config.keep_checkpoints = 4, 2
    workdir = tmp_path_factory.mktemp("foreign") / "run"
    train_loop.train(config, workdir)
    return workdir


def contents(folder: pathlib.Path) -> dict[str, bytes | None]:
    """Returns the contents of each file, None for a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def scatter(workdir: pathlib.Path) -> list[str]:
    """Puts foreign files, folders, links and copies everywhere; returns them all."""
    before = set(contents(workdir))
    checkpoints = workdir / "checkpoints"
    for folder in (
        workdir,
        checkpoints,
        checkpoints / "analysis" / "deep",
        *checkpoints.glob("16/**/"),
    ):
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("notes.txt", "metrics.tmp", "state.npz", ".hidden", "events.out.tfevents.1.a"):
            (folder / name).write_text(f"of {folder}")
    for copy in ("backup/16", "16.bak", "copy of 16", "0016", "16 "):
        shutil.copytree(checkpoints / "16", checkpoints / copy)
    shutil.copytree(checkpoints / "16", checkpoints / "3")  # as if it was a step of its own
    shutil.copytree(checkpoints, workdir / "all of them")
    shutil.copytree(checkpoints / "20", checkpoints / "half" / "20")
    (checkpoints / "half/20/commit_success.txt").unlink()
    for name in ("2147483648", "99999999999999999999", "1e3", "1"):
        (checkpoints / name).mkdir()
    (checkpoints / "2").write_text("a file")
    (checkpoints / "link").symlink_to(checkpoints / "20")
    (checkpoints / "5").symlink_to(workdir / "all of them" / "20")
    (checkpoints / "5.orbax-checkpoint-tmp").mkdir()
    return sorted(set(contents(workdir)) - before)


def test_foreign_files_survive_whatever_a_run_does(finished, config, tmp_path, capsys):
    workdir = shutil.copytree(finished, tmp_path / "run")
    foreign = scatter(workdir)
    assert len(foreign) > 200

    def check() -> None:
        now = contents(workdir)
        assert {name: now.get(name, "gone") for name in foreign} == kept

    before = contents(workdir)
    kept = {name: before[name] for name in foreign}
    everything = contents(workdir / "checkpoints")
    train_loop.train(config, workdir)  # which has nothing to do
    check()
    assert contents(workdir / "checkpoints") == everything
    shown = capsys.readouterr().out
    for name in ("0016", "2147483648", "99999999999999999999", "2"):
        assert f"{workdir}/checkpoints/{name} is not a checkpoint of a run: " in shown

    shutil.rmtree(workdir / "checkpoints" / "20")
    train_loop.train(config, workdir)  # saves 20
    config.num_epochs *= 2
    train_loop.train(config, workdir, allow_config_change=True)  # saves 24 to 40, deletes 20
    check()
    steps = complete_steps(workdir / "checkpoints")
    assert [step for step in steps if step > 5] == [16, 36, 40]  # 16 has foreign files in it
    assert read_metrics(workdir)[-1]["step"] == 40

    truncate(workdir / "checkpoints/40/meta/metadata")
    (workdir / "checkpoints/38/state").mkdir(parents=True)  # a save that was cut short
    train_loop.train(config, workdir, allow_config_change=True)
    check()
    assert not (workdir / "checkpoints/38").exists()


def test_what_is_in_the_way_of_a_step_is_named_before_the_first_one(finished, config, tmp_path):
    workdir = shutil.copytree(finished, tmp_path / "run")
    shutil.rmtree(workdir / "checkpoints" / "20")
    for make, why in (
        (lambda path: path.write_text("mine"), "it is not a folder"),
        (
            lambda path: (path / "results").mkdir(parents=True),
            "it holds results, which no run writes",
        ),
    ):
        path = workdir / "checkpoints" / "20"
        make(path)
        before = contents(workdir)
        with pytest.raises(
            ValueError, match=f"{path} is not a checkpoint of a run: {why}.*move it"
        ):
            train_loop.train(config, workdir)
        assert contents(workdir) | {"lock": None} == before | {"lock": None}
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def test_what_appears_in_the_way_of_a_step_makes_its_save_fail(tmp_path, capsys):
    folder = tmp_path / "checkpoints"
    with Checkpoints(folder, keep=3) as checkpoints:
        checkpoints.save(1, small_state(1), {})
        checkpoints.wait()
        (folder / "2").mkdir()
        (folder / "2" / "mine").write_text("mine")
        checkpoints.save(2, small_state(2), {})
        checkpoints.save(3, small_state(3), {})
    assert (
        f"{folder}/2 is there, and no run wrote it: move it away\nTrying once more, with step 3."
        in (capsys.readouterr().out)
    )
    assert complete_steps(folder) == [1, 3]
    assert contents(folder / "2") == {"mine": b"mine"}


def test_everything_that_orbax_writes_is_known(finished, tmp_path):
    for step in complete_steps(finished / "checkpoints"):
        assert foreign_names(finished / "checkpoints" / str(step)) == []
    (tmp_path / "state" / "d").mkdir(parents=True)
    for name in ("state/d/x", "state/manifest.ocdbt.txt", "0" * 32 + ".txt"):
        (tmp_path / name).touch()
    assert foreign_names(tmp_path) == ["0" * 32 + ".txt", "state/d/x", "state/manifest.ocdbt.txt"]


def test_a_run_without_its_checkpoints_does_not_start_over(finished, config, tmp_path):
    workdir = shutil.copytree(finished, tmp_path / "run")
    metrics = (workdir / "metrics.jsonl").read_bytes()
    for path in (workdir / "checkpoints").rglob("commit_success.txt"):
        path.unlink()
    before = contents(workdir)
    message = r"(?s)No checkpoint .* is complete, but 20 is sound apart from .*touch (.*)`\. To"
    with pytest.raises(ValueError, match=message) as refused:
        train_loop.train(config, workdir)
    assert contents(workdir) | {"lock": None} == before | {"lock": None}
    (workdir / "checkpoints" / "20" / "commit_success.txt").touch()  # as it says
    assert str(workdir / "checkpoints" / "20" / "commit_success.txt") in str(refused.value)
    train_loop.train(config, workdir)
    assert (workdir / "metrics.jsonl").read_bytes() == metrics

    shutil.rmtree(workdir / "checkpoints")  # as if not mounted
    for make in (lambda path: None, lambda path: path.mkdir()):
        make(workdir / "checkpoints")
        with pytest.raises(
            ValueError, match=r"The run has had the checkpoint of step 20; .*delete"
        ):
            train_loop.train(config, workdir)
        assert (workdir / "metrics.jsonl").read_bytes() == metrics
    (workdir / "checkpoints.txt").unlink()
    assert train_loop.train(config, workdir)["step"] == 20


def test_a_sound_step_that_a_kill_left_without_its_commit_file_is_used(tmp_path, capsys):
    folder = tmp_path / "checkpoints"
    with Checkpoints(folder, keep=3) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, small_state(step), {})
    for step in (2, 3):
        (folder / str(step) / "commit_success.txt").unlink()
    edit_meta(folder / "3", log={})  # not sound
    assert restore_newest(folder, ABSTRACT).step == 2
    assert "Checkpoint 2 lacks its commit_success.txt, but its checksums" in capsys.readouterr().out
    assert complete_steps(folder) == [1, 2]
    check_free(folder, range(3, 10))
    with Checkpoints(folder, keep=3) as checkpoints:
        checkpoints.save(3, small_state(4), {})
    restored = restore_newest(folder, ABSTRACT)
    assert (restored.step, int(jax.device_get(restored.state["step"]))) == (3, 4)


@pytest.mark.parametrize(
    "place", ["checkpoints", "checkpoints/20", "checkpoints/77", "config.json"]
)
def test_a_part_of_a_run_is_no_workdir(place, finished, config):
    before = contents(finished)
    message = (
        "Use --workdir=.*/run\\." if "check" in place else "a folder as --workdir; got the file"
    )
    with pytest.raises(ValueError, match=message):
        train_loop.train(config, finished / place)
    assert contents(finished) == before


@pytest.mark.parametrize(
    "name", ["config.json", "metrics.jsonl", "curves.png", "lock", "checkpoints"]
)
def test_a_folder_of_something_else_is_no_workdir(name, config, tmp_path):
    (tmp_path / name).write_text("of something else")
    (tmp_path / "more").mkdir()
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=f"{tmp_path}.*{name}|{name} of something else"):
        train_loop.train(config, tmp_path)
    assert contents(tmp_path) == before
