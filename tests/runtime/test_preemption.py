"""SIGTERM and Ctrl-C, really delivered, in every phase of a run; agreement of several processes."""

import itertools
import os
import signal
import threading

import jax
import numpy as np
import pytest
from test_train_loop import read_lines, read_state

from mixer import train_loop
from mixer.checkpoint.folder import newest_step
from mixer.checkpoint.save import Checkpoints
from mixer.data import input_pipeline
from mixer.reporting.run_log import RunLog
from mixer.runtime.preemption import Preempted, Preemption
from mixer.runtime.watchdog import Watchdog
from mixer.sharding import create_mesh


def ask(number: int = signal.SIGTERM) -> None:
    os.kill(os.getpid(), number)


def during_compilation(monkeypatch):
    compile_step = train_loop.compile_call

    def asked(*args):
        ask()
        return compile_step(*args)

    monkeypatch.setattr(train_loop, "compile_call", asked)


def while_waiting_for_the_batch_after_step_5(monkeypatch):
    take = input_pipeline.TrainInput.from_step

    def stalled(self, first_step, on_damage):
        for step, batch in enumerate(take(self, first_step, on_damage), first_step):
            if step == 5:
                threading.Timer(0.3, ask).start()
                threading.Event().wait(20)
                raise AssertionError("the run has waited for this batch")
            yield batch

    monkeypatch.setattr(input_pipeline.TrainInput, "from_step", stalled)


def at_step_7(monkeypatch):
    add = RunLog.add

    def asked(self, step, *args):
        if step == 7:
            ask(signal.SIGINT)
        add(self, step, *args)

    monkeypatch.setattr(RunLog, "add", asked)


def by(number: int, asked_at_step: int):
    def when(monkeypatch):
        add = RunLog.add

        def asked(self, step, *args):
            if step == asked_at_step:
                ask(number)
            add(self, step, *args)

        monkeypatch.setattr(RunLog, "add", asked)

    return when


def while_saving_step_8(monkeypatch):
    save = Checkpoints.save

    def asked(self, step, *args):
        assert step == 8, "and not once more"
        save(self, step, *args)
        ask()

    monkeypatch.setattr(Checkpoints, "save", asked)


def during_the_evaluation(monkeypatch):
    take = input_pipeline.EvalInput.one_pass

    def asked(self):
        for number, batch in enumerate(take(self)):
            assert number <= 2, "the evaluation has gone on"
            if number == 2:
                ask()
            yield batch

    monkeypatch.setattr(input_pipeline.EvalInput, "one_pass", asked)


@pytest.fixture
def hang_ups_are_heeded():
    """Under `nohup` they are ignored, and so they are by the runs."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def test_a_run_stopped_in_every_phase_has_the_bits_of_an_undisturbed_one(
    tmp_path, digits_config, parts_built_once, hang_ups_are_heeded, monkeypatch, capfd
):
    digits_config.checkpoint_every = 8
    digits_config.eval_every = 10
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    train_loop.train(digits_config, whole)
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    for when, saved_step, shown in (
        (during_compilation, None, "SIGTERM: nothing to save, ending; run the same command"),
        (while_waiting_for_the_batch_after_step_5, 5, "SIGTERM: saving step 5, then ending"),
        (at_step_7, 7, "SIGINT: saving step 7, then ending; run the same command to go on."),
        (while_saving_step_8, 8, "SIGTERM: nothing to save, ending"),
        (during_the_evaluation, 10, "SIGTERM: saving step 10, then ending"),
        (during_the_evaluation, 10, "SIGTERM: nothing to save, ending"),
        (by(signal.SIGHUP, 11), 11, "SIGHUP: saving step 11, then ending; run the same command"),
        (by(signal.SIGUSR1, 12), 12, "SIGUSR1: saving step 12, then ending"),
        (by(signal.SIGUSR2, 13), 13, "SIGUSR2: saving step 13, then ending"),
        (by(signal.SIGXCPU, 14), 14, "SIGXCPU: saving step 14, then ending"),
    ):
        capfd.readouterr()
        with monkeypatch.context() as context:
            when(context)
            with pytest.raises(Preempted) as preempted:
                train_loop.train(digits_config, stopped)
        assert preempted.value.code == 0
        output, errors = capfd.readouterr()
        assert shown in output
        assert "Ctrl-C ends the program at once" in errors
        assert newest_step(stopped / "checkpoints") == saved_step
        assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == handlers
    train_loop.train(digits_config, stopped)

    lines = read_lines(whole)
    assert [line["step"] for line in lines] == [4, 8, 10, 12, 16, 20, 20]
    assert read_lines(stopped) == lines
    first, second = (read_state(digits_config, path, 20) for path in (whole, stopped))
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_array_equal(a, b)


def test_ctrl_c_after_a_signal_ends_the_program():
    with Preemption(create_mesh(), Watchdog(0)) as preemption:
        preemption.check()
        ask()
        assert signal.getsignal(signal.SIGINT) == signal.SIG_DFL
        with pytest.raises(Preempted):
            preemption.check()
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT, signal.SIGUSR1])
def test_what_is_ignored_at_the_start_stays_ignored(number):
    before = signal.signal(number, signal.SIG_IGN)  # as `nohup` does, or a shell with `&`
    try:
        with Preemption(create_mesh(), Watchdog(0)) as preemption:
            ask(number)
            preemption.check()
            ask(signal.SIGTERM)
            assert signal.getsignal(number) == signal.SIG_IGN
            with pytest.raises(Preempted):
                preemption.check()
        assert signal.getsignal(number) == signal.SIG_IGN
    finally:
        signal.signal(number, before)


def test_several_processes_act_on_what_they_knew_two_batches_ago():
    with Preemption(create_mesh(), Watchdog(0)) as preemption:
        preemption._several = True
        batches = preemption.interruptible(iter(range(9)))
        assert next(batches) == 0
        ask()
        assert next(batches) == 1
        assert next(batches) == 2
        with pytest.raises(Preempted, match="0") as preempted:
            next(batches)
    assert preempted.value.signal == "SIGTERM"


def test_batches_taken_in_another_thread_are_the_same_and_so_are_their_errors():
    def produce():
        yield from range(3)
        raise ValueError("no more")

    with Preemption(create_mesh(), Watchdog(0)) as preemption:
        assert list(preemption.interruptible(iter(range(3)))) == [0, 1, 2]
        batches = preemption.interruptible(produce())
        assert list(itertools.islice(batches, 3)) == [0, 1, 2]
        with pytest.raises(ValueError, match="no more"):
            next(batches)
