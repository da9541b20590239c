"""Two real processes that save and restore together: what one alone sees holds for both."""

import os
import pathlib
import re
import subprocess
import sys

import pytest
from ports import free_port

ROOT = pathlib.Path(__file__).parent.parent.parent

COMMON = """
import pathlib, resource, shutil, sys
import jax
from mixer.checkpoint import format as checkpoint_format
from mixer.runtime import distributed
from mixer.checkpoint.save import Checkpoints
from mixer.checkpoint.folder import complete_steps
from mixer.checkpoint.restore import restore_newest
from mixer.checkpoint.checksum import array_checksums
from mixer.sharding import create_mesh, state_sharding
port, process, folder = sys.argv[1], int(sys.argv[2]), pathlib.Path(sys.argv[3])
distributed.start(f"127.0.0.1:{port}", 2, process)
mesh = create_mesh(data=1, fsdp=2)

def state_of(step):
    kernel = jax.random.normal(jax.random.key(step), (512, 512))  # 0.5 MB of each process
    values = {"kernel": kernel, "bias": jax.numpy.ones(8)}
    return jax.jit(lambda: values, out_shardings=state_sharding(mesh, values))()

abstract = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state_of(0)
)
"""

# Process 1 cannot write for a while: its files may not grow.
FAILING = """
def limit(size):
    if process == 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

with Checkpoints(folder, keep=9) as checkpoints:
    checkpoints.save(1, state_of(1), {})
    checkpoints.wait()
    limit(100_000)
    checkpoints.save(2, state_of(2), {})
    print("failed:", checkpoints._await_last_save())
    limit(resource.RLIM_INFINITY)
    checkpoints.save(3, state_of(3), {})  # the second try is waited for
    print("complete:", complete_steps(folder))
    limit(100_000)
    checkpoints.save(4, state_of(4), {})
    try:
        checkpoints.save(5, state_of(5), {})
    except OSError as error:
        print("error:", error)
assert array_checksums(restore_newest(folder, abstract).state) == array_checksums(state_of(3))
"""

# What process 1 alone sees of step 2 makes both take step 1.
DAMAGED = """
with Checkpoints(folder, keep=9) as checkpoints:
    for step in (1, 2, 3):
        checkpoints.save(step, state_of(step), {})
if process == 0:
    shutil.rmtree(folder / "3" / "state")
    shutil.copytree(folder / "1" / "state", folder / "3" / "state")
jax.experimental.multihost_utils.sync_global_devices("damaged")
read_state = checkpoint_format.read_state

def read(directory, abstract_state):
    if process == 1 and directory.name == "2":
        raise checkpoint_format.DamagedCheckpoint("arrays: only process 1 cannot read them")
    return read_state(directory, abstract_state)

checkpoint_format.read_state = read
restored = restore_newest(folder, abstract)
assert array_checksums(restored.state) == array_checksums(state_of(1))
print("restored", restored.step)
with Checkpoints(folder, keep=9) as checkpoints:
    checkpoints.save(3, state_of(3), {})
"""


def run_two(program: str, folder: pathlib.Path) -> list[str]:
    """Runs the program in two processes with a device each; returns what each printed."""
    port = free_port()
    running = [
        subprocess.Popen(
            [sys.executable, "-c", COMMON + program, str(port), str(process), str(folder)],
            cwd=ROOT,
            env={**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for process in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=150) for process in running]
    finally:
        for process in running:
            process.kill()
    assert [process.returncode for process in running] == [0, 0], outputs
    return [shown for shown, _ in outputs]


@pytest.mark.slow
def test_a_save_that_one_process_cannot_write_is_tried_again_by_both(tmp_path):
    for shown in run_two(FAILING, tmp_path):
        failed, complete, error = (
            re.search(f"^{word}: .*", shown, re.MULTILINE)[0]
            for word in ("failed", "complete", "error")
        )
        for line, step in ((failed, 2), (error, 5)):
            assert f"The checkpoint {tmp_path}/{step} could not be written: " in line
            assert "ocdbt.process_1" in line
            assert "File too large" in line
        assert complete == "complete: [1, 3]"
        assert "The run ends. Complete checkpoints there: 1, 3. " in shown
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "3"]


@pytest.mark.slow
def test_two_processes_agree_on_the_step(tmp_path):
    (first, second, third), others = (
        re.findall("^(?:Checkpoint|restored).*", shown, re.MULTILINE)
        for shown in run_two(DAMAGED, tmp_path)
    )
    assert others == ["restored 1"], "process 0 speaks for both"
    assert first.startswith("Checkpoint 3 is damaged: checksum: the bits of kernel have changed")
    assert second.startswith("Checkpoint 2 is damaged: arrays: only process 1 cannot read them")
    assert third == "restored 1"
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["1", "2.damaged-arrays", "3", "3.damaged-checksum"]
