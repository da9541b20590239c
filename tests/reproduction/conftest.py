"""A study whose runs are constructed: metrics as runs write them, without training."""

import json
import pathlib
from collections.abc import Callable

import pytest

from mixer.paper.graph import Run
from mixer.reproduction.study import Study
from mixer.reproduction.values import total_steps

WHERE = {"hardware": "8 x TPU v3", "jax": "0.10.2", "commit": "abc1234", "date": "2026-11-26"}


@pytest.fixture
def study(tmp_path: pathlib.Path) -> Study:
    return Study(tmp_path / "paper")


@pytest.fixture
def finish(study: Study) -> Callable[..., None]:
    """Writes the metrics of a run, or of a sweep whose second learning rate is the best.

    Arguments: the run, and the test top-1 of each seed; other metrics of the last line by name.
    """

    def write(folder: pathlib.Path, config: dict, lines: list[dict]) -> None:
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "environment.json").write_text(json.dumps(WHERE))
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / "metrics.jsonl").write_text(text)

    def finish(run: Run, *top1: float, lines: list[dict] | None = None, **metrics: float) -> None:
        last = {"step": total_steps(study, run), **metrics}
        if run.seeds == 1:
            config = json.loads(study.config(run).to_json())
            write(study.folder(run), config, (lines or []) + [last])
            return
        sweep = study.sweep(run)
        for number, name in enumerate(sweep.combinations):
            for seed in sweep.seeds if number == 1 else sweep.seeds[:1]:
                tested = top1[seed] if number == 1 else 0.99
                scores = {"minival/top1": 0.5 + 0.1 * (number == 1), "test/top1": tested}
                config = sweep.run_config((name, seed))
                write(sweep.folder((name, seed)), config, [{**last, **scores}])

    return finish
