"""launch_tpu.sh: what it asks of gcloud, exactly."""

import shlex
import subprocess

import pytest
from fake_cloud import FLAGS, OVERRIDES, PLACE, PROGRAM, SSH

SETUP = (
    "--command=mkdir -p mixer/.run; flock -n mixer/.run/lock true || { echo 'Error: a program is "
    "running; stop it: launch_tpu.sh stop' >&2; exit 1; }; find mixer -mindepth 1 -maxdepth 1 ! "
    "-name .venv ! -name .run -exec rm -rf {} + && tar -xzf mixer.tar.gz -C mixer && "
    "bash mixer/scripts/tpu_worker.sh setup"
)


def worker_command(*words: str) -> str:
    return f"--command=bash mixer/scripts/tpu_worker.sh {shlex.join(words)}"


def test_a_whole_run_on_four_workers(cloud):
    cloud.play('echo "step $WORKER"; echo "a  b"; exit 0', workers=4)
    result = cloud.launch("run", *FLAGS, "--spot", *PROGRAM, "--", *OVERRIDES)
    assert result.returncode == 0, result.stderr
    assert "\nstep 0\na  b\n" in result.stdout
    assert "step 1" not in result.stdout
    assert "The program finished" in result.stdout
    for worker in range(4):
        assert cloud.arguments(worker) == [*PROGRAM, *OVERRIDES]
        installs = (cloud.folder / f"pip.{worker}").read_text().splitlines()
        assert installs[0] == "-m pip install -r requirements-tpu.txt -c requirements.lock"
    states = [
        ["queued-resources", "describe", "mixer-b16", "--format=value(state.state)", *PLACE],
        ["tpu-vm", "describe", "mixer-b16", "--format=value(state)", *PLACE],
    ]
    ask = ["tpu-vm", "ssh", "mixer-b16", "--worker=all", worker_command("state"), *SSH]
    kind = ["--accelerator-type=v3-32", "--version=tpu-ubuntu2204-base"]
    on_all = ["tpu-vm", "ssh", "mixer-b16", "--worker=all"]
    calls = cloud.calls()
    start = next(call[4] for call in calls if " start " in call[4])
    assert shlex.split(start.removeprefix("--command="))[2:] == ["start", *PROGRAM, *OVERRIDES]
    assert calls == [
        *states,
        ["tpu-vm", "create", "mixer-b16", *kind, "--spot", *PLACE],
        *states,
        ["tpu-vm", "describe", "mixer-b16", "--format=value(acceleratorType)", *PLACE],
        ask,
        ["tpu-vm", "scp", "build/mixer.tar.gz", "mixer-b16:mixer.tar.gz", "--worker=all", *PLACE],
        [*on_all, SETUP, *SSH],
        [*on_all, start, *SSH],
        [*on_all[:3], "--worker=0", worker_command("follow", "0", "300"), *SSH],
        *states,
        ask,
        *states,
        ["tpu-vm", "delete", "mixer-b16", *PLACE],
    ]


def test_a_queued_slice_with_an_image_and_a_project(cloud):
    flags = ["--name=q", "--zone=z-1", "--project=p", "--accelerator_type=v5e-16", "--queue"]
    waiting = "WAITING_FOR_RESOURCES WAITING_FOR_RESOURCES PROVISIONING ACTIVE"
    cloud.play("exit 0", answers={"queued-resources create": [waiting]})
    result = cloud.launch("create", *flags, "--runtime_version=own")
    assert result.returncode == 0, result.stderr
    states = [line.split(": ")[1] for line in result.stdout.splitlines() if "Slice q: " in line]
    assert states == ["ABSENT", "WAITING_FOR_RESOURCES", "PROVISIONING", "READY"]
    place = ["--zone=z-1", "--project=p", "--quiet"]
    kind = ["--accelerator-type=v5litepod-16", "--runtime-version=own"]
    created = ["queued-resources", "create", "q", "--node-id=q", *kind, *place]
    assert [call for call in cloud.calls() if call[1] == "create"] == [created]

    assert cloud.launch("create", *flags, "--runtime_version=own").returncode == 0
    assert [call for call in cloud.calls() if call[1] != "describe"] == []
    assert cloud.launch("delete", *flags[:3]).returncode == 0
    assert cloud.calls()[-1] == ["queued-resources", "delete", "q", "--force", *place]
    assert not (cloud.folder / "node").exists()
    assert cloud.launch("delete", *flags[:3]).returncode == 0
    assert [call for call in cloud.calls() if call[1] != "describe"] == []


@pytest.mark.parametrize(
    ("accelerator", "image"),
    [
        ("v2-8", "tpu-ubuntu2204-base"),
        ("v4-32", "tpu-ubuntu2204-base"),
        ("v5litepod-8", "v2-alpha-tpuv5-lite"),
        ("v5p-8", "v2-alpha-tpuv5"),
        ("v6e-8", "v2-alpha-tpuv6e"),
    ],
)
def test_every_generation_has_an_image(cloud, accelerator, image):
    cloud.launch("create", *FLAGS[:2], f"--accelerator_type={accelerator}")
    created = next(call for call in cloud.calls() if call[1] == "create")
    assert created[3:5] == [f"--accelerator-type={accelerator}", f"--version={image}"]


def test_the_dry_run_prints_what_a_run_does_and_calls_nothing(cloud):
    flags = [*FLAGS, "--spot", *PROGRAM]
    dry = cloud.launch("run", *flags, "--dry-run", "--", *OVERRIDES)
    assert dry.returncode == 0
    assert cloud.calls() == []
    printed = [shlex.split(line) for line in dry.stdout.splitlines() if line[0] != "#"]
    assert ["mkdir", "-p", "build", "&&", "git", "archive"] in [line[:6] for line in printed]
    printed = [line[3:] for line in printed if line[:3] == ["gcloud", "compute", "tpus"]]
    assert cloud.launch("run", *flags, "--", *OVERRIDES).returncode == 0
    called = cloud.calls()
    assert len(printed) >= 9
    for line in printed:
        assert line in called
    for line in called:
        assert line in printed or "--format=value(acceleratorType)" in line

    # Pasted into a shell, it is what it says.
    subprocess.run(["bash", "-c", dry.stdout], cwd=cloud.clone, env=cloud.environment, check=False)
    assert [call for call in cloud.calls() if call[1] != "describe"] == [
        line for line in printed if line[1] != "describe"
    ]
    assert cloud.arguments() == [*PROGRAM, *OVERRIDES]


@pytest.mark.parametrize(
    "command", ["create", "setup", "start", "follow", "status", "stop", "delete"]
)
def test_every_command_has_a_dry_run_that_needs_no_gcloud(cloud, command):
    flags = [*FLAGS, *PROGRAM, "--queue", "--dry-run"]
    (cloud.folder / "bin" / "gcloud").unlink()
    result = cloud.launch(command, *flags)
    assert result.returncode == 0
    assert "gcloud compute tpus " in result.stdout
