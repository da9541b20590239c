"""launch_tpu.sh: bad input, refused before gcloud is called."""

import shutil

import pytest
from fake_cloud import FLAGS, PROGRAM


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fly"], "expected a command (run, create,"),
        (["run", *FLAGS, *PROGRAM, "--gpu"], "got '--gpu'"),
        (["run", *FLAGS, *PROGRAM, "--config.seed=1"], "go after a separate --"),
        (["stop", *FLAGS, "--", "x"], "expected nothing after -- for stop, got 'x'"),
        (["run", *FLAGS[1:], *PROGRAM], "expected --name=NAME"),
        (["run", "--name=Big", *FLAGS[1:], *PROGRAM], "got 'Big'"),
        (["delete", FLAGS[0]], "expected --zone=ZONE, got none"),
        (["run", *FLAGS[:2], *PROGRAM], "expected --accelerator_type="),
        (["create", *FLAGS[:2], "--accelerator_type=v9-8"], "got 'v9-8'"),
        (["run", *FLAGS, PROGRAM[1]], "expected --config=FILE[:SIZE]"),
        (
            ["run", *FLAGS, PROGRAM[1], "--config=configs/none.py:B/16"],
            "got 'configs/none.py:B/16'",
        ),
        (["run", *FLAGS, PROGRAM[0]], "expected --workdir=gs://BUCKET/FOLDER, got none"),
        (["run", *FLAGS, PROGRAM[0], "--workdir=runs/x"], "a v3-32 is several machines"),
        (["run", *FLAGS[:2], "--accelerator_type=v3-8", PROGRAM[0], "--workdir=x"], "or --keep"),
    ],
)
def test_bad_input_is_refused_before_gcloud_is_called(cloud, arguments, message):
    result = cloud.launch(*arguments)
    assert result.returncode == 2
    assert message in result.stderr
    assert cloud.calls() == []


def test_what_is_missing_on_the_laptop_is_said(cloud, clone, tmp_path):
    tools = tmp_path / "tools"
    tools.mkdir()
    for tool in ("bash", "dirname", "git"):
        (tools / tool).symlink_to(shutil.which(tool))
    without = {**cloud.environment, "PATH": str(tools)}
    result = cloud.launch("create", *FLAGS, env=without)
    assert result.returncode == 2
    assert "expected gcloud on the PATH, got none" in result.stderr
    result = cloud.launch("stop", *FLAGS, env={**cloud.environment, "MIXER_TPU_POLL_SECONDS": "x"})
    assert result.returncode == 2

    (tmp_path / "unpacked").mkdir()
    shutil.copytree(clone / "scripts", tmp_path / "unpacked" / "scripts")
    result = cloud.launch("run", *FLAGS, *PROGRAM, cwd=tmp_path / "unpacked")
    assert result.returncode == 2
    assert "expected a git clone" in result.stderr
    assert cloud.calls() == []


def test_uncommitted_changes_are_mentioned(cloud, clone):
    assert "Warning" not in cloud.launch("setup", *FLAGS, "--dry-run").stderr
    (clone / "new").touch()
    try:
        result = cloud.launch("setup", *FLAGS, "--dry-run")
    finally:
        (clone / "new").unlink()
    assert result.returncode == 0
    assert "uncommitted changes are not copied to the slice" in result.stderr
