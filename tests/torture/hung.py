"""The program, with a read of a pipe that nobody writes to in the phase that $PHASE names.

Each phase before the first step has a limit of three seconds in the place of its own.
"""

import dataclasses
import os

from absl import flags

from mixer import build, main, train_loop
from mixer.data import input_pipeline
from mixer.runtime import command, watchdog

PHASES = [name for name in watchdog.PHASES if "weights" not in name]


def patch(phase: str) -> None:
    def hang() -> None:
        with open(os.environ["PIPE"]) as pipe:
            pipe.read()

    build_data, take = build.build_data, input_pipeline.TrainInput.from_step
    compile_step, restore = train_loop.compile_call, train_loop.restore_newest

    def hung_data(*args):
        hang() if phase == "opening the data" else None
        data = build_data(*args)
        return (
            dataclasses.replace(data, read_dataset=hang) if phase == "reading all images" else data
        )

    def hung_restore(*args):
        hang() if phase == "restoring the checkpoint" else None
        return restore(*args)

    def hung_compile(*args):
        hang() if phase == "compiling the training step" else None
        return compile_step(*args)

    def hung_batches(self, first_step, on_damage):
        for step, batch in enumerate(take(self, first_step, on_damage), first_step):
            if phase == ("reading the first batch" if step == first_step else "training"):
                hang() if step in (first_step, first_step + 5) else None
            yield batch

    build.build_data, train_loop.restore_newest = hung_data, hung_restore
    train_loop.compile_call, input_pipeline.TrainInput.from_step = hung_compile, hung_batches
    # The compilation itself takes longer.
    limits = {name: (1, 3 if name == phase else 60) for name in watchdog.PHASES}
    watchdog.PHASES.update(limits | {"training": (1, 0)})


if __name__ == "__main__":
    patch(os.environ["PHASE"])
    flags.mark_flag_as_required("config")
    command.run(main.main)
