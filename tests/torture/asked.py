"""The program, asked to stop by $SIGNAL in the phase that $PHASE names; the last process only.

Prints `asked SECONDS`, the time of the signal or when the phase can first be left after it, and
`did STEP` for each step.
"""

import os
import signal
import threading
import time

import jax
from absl import flags

from mixer import main, train_loop
from mixer.checkpoint.save import Checkpoints
from mixer.data import input_pipeline
from mixer.reporting.run_log import RunLog
from mixer.runtime import command

PHASES = ("compile", "wait for data", "step", "save", "evaluation")
WAIT_SECONDS = 30.0  # for the batch that is late; of several processes none can go on without it


def say(word: str) -> None:
    print(f"\n{word} {time.time()}", flush=True)


def ask(delay: float) -> None:
    """Sends the signal after some seconds, if this is the process that shall get it."""

    def send() -> None:
        say("asked")
        os.kill(os.getpid(), signal.Signals[os.environ["SIGNAL"]])

    if jax.process_index() == jax.process_count() - 1:
        threading.Timer(delay, send).start()


def patch(phase: str) -> None:
    compile_step, save = train_loop.compile_call, Checkpoints.save
    add, take = RunLog.add, input_pipeline.TrainInput.from_step
    take_for_evaluation = input_pipeline.EvalInput.one_pass
    done = 0

    def asked_compile(*args):
        ask(0.1) if phase == "compile" else None
        compiled = compile_step(*args)
        say("asked") if phase == "compile" else None
        return compiled

    def asked_save(self, step, *args):
        ask(0.01) if phase == "save" and done else None
        save(self, step, *args)

    def asked_add(self, step, *args):
        nonlocal done
        done += 1
        ask(0.005) if phase == "step" and done == 3 else None
        print(f"\ndid {step}", flush=True)
        add(self, step, *args)

    def asked_batches(self, first_step, on_damage):
        for step, batch in enumerate(take(self, first_step, on_damage), first_step):
            if phase == "wait for data" and step == first_step + 5:
                ask(0.5)
                time.sleep(WAIT_SECONDS if jax.process_count() == 1 else 3)
                say("asked")
            yield batch

    def asked_evaluation(self):
        for batch in take_for_evaluation(self):
            ask(0.1) if phase == "evaluation" else None
            time.sleep(0.5)
            yield batch

    train_loop.compile_call, Checkpoints.save = asked_compile, asked_save
    RunLog.add, input_pipeline.TrainInput.from_step = asked_add, asked_batches
    input_pipeline.EvalInput.one_pass = asked_evaluation


if __name__ == "__main__":
    patch(os.environ["PHASE"])
    flags.mark_flag_as_required("config")
    command.run(main.main)
