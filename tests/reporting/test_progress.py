"""The clock and the two forms of the progress line."""

import time

import pytest
import rich.console

from mixer.reporting.progress import Progress

SCALARS = {
    "loss": 1.5,
    "learning_rate": 1e-3,
    "images_per_second_per_core": 1234.4,
    "core_days": 0.0099,
}


def make_progress(**changes) -> Progress:
    arguments = dict(
        first_step=0,
        total_steps=100,
        batch_size=80,
        train_flops_per_image=1e9,
        train_seconds=0.0,
        core_seconds=0.0,
        active=True,
    )
    return Progress(**{**arguments, **changes})


def test_speed_leaves_out_pauses_and_counts_every_core():
    progress = make_progress(first_step=10, train_seconds=5.0)
    time.sleep(0.2)  # before the start
    progress.start()
    time.sleep(0.1)
    with progress.pause():
        time.sleep(0.3)
    measured = progress.measure(15, time.monotonic())
    progress.close()
    assert 5.1 <= measured["train_seconds"] < 5.19
    # 5 steps of 80 images in 0.1 s on 8 devices: 500 images/s/core.
    assert measured["images_per_second_per_core"] == pytest.approx(500, rel=0.5)
    assert measured["images_per_second_per_core"] <= 500


def test_plain_lines_without_a_terminal(capsys):
    progress = make_progress()
    progress.start()
    progress.show(50, SCALARS)
    progress.close()
    out = capsys.readouterr().out
    assert out.startswith("step 50/100 | loss 1.5000 | lr 1.00e-03 | 1,234 images/s/core")
    assert out.endswith("| ETA 0:00:00\n"), "nothing of unknown peaks and of tiny costs"
    assert "\x1b" not in out


@pytest.mark.parametrize(
    ("speed", "shown"),
    [(0.2345, "0.234"), (4.0, "4"), (57.06, "57.1"), (99.96, "100"), (1e4, "10,000")],
)
def test_slow_models_show_digits(speed, shown, capsys):
    progress = make_progress()
    progress.start()
    progress.show(50, {**SCALARS, "images_per_second_per_core": speed})
    progress.close()
    assert f" | {shown} images/s/core | " in capsys.readouterr().out


def test_utilisation_and_cost_where_there_is_something_to_say(capsys):
    progress = make_progress()
    progress.start()
    progress.show(50, {**SCALARS, "model_flops_utilisation": 0.5149, "core_days": 0.01})
    progress.show(100, {**SCALARS, "core_days": 1234.5})
    progress.close()
    first, second = capsys.readouterr().out.splitlines()
    assert first.endswith("| ETA 0:00:00 | MFU 51% | 0.01 core-days")
    assert second.endswith("| ETA 0:00:00 | 1,234.50 core-days")


def test_a_live_line_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr(rich.console.Console, "is_terminal", True)
    monkeypatch.setenv("TERM", "xterm")
    progress = make_progress()
    progress.start()
    progress.advance(50)
    progress.show(50, SCALARS)
    progress.say("evaluated")
    progress.close()
    out = capsys.readouterr().out
    assert "step 50/100" in out
    assert "1,234 images/s/core" in out
    assert "evaluated" in out
    assert "\x1b[" in out  # drawn in place


def test_other_processes_are_silent(capsys):
    progress = make_progress(active=False)
    progress.start()
    progress.say("hello")
    progress.show(50, SCALARS)
    progress.close()
    assert capsys.readouterr().out == ""
