"""tpu_worker.sh: one program at a time, its state, its log, and the Python it runs with."""

import shutil
import socket
import subprocess
import time

import pytest

HOST = socket.gethostname()
TOOLS = ["bash", "basename", "dirname", "cat", "cksum", "cp", "flock", "mkdir", "rm", "tail", "wc"]


@pytest.fixture
def worker(cloud):
    """Runs a command of the script in a clone whose environment is ready; returns its output."""
    home = cloud.folder / "w0"
    shutil.copytree(cloud.clone, home / "mixer", ignore=shutil.ignore_patterns(".git"))

    def call(*arguments: str, code: int = 0, **environment: str) -> str:
        result = subprocess.run(
            ["bash", "mixer/scripts/tpu_worker.sh", *arguments],
            cwd=home,
            env={**cloud.environment, "WORKER": "0", **environment},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert result.returncode == code, result.stdout + result.stderr
        return result.stdout + result.stderr

    call("setup")
    return call


def test_the_states_and_the_log(worker, cloud):
    cloud.play('printf "a\nb  c\n"; while [ ! -e "$FAKE_CLOUD/go" ]; do sleep 0.05; done; exit 7')
    assert worker("state") == f"{HOST} idle\n"
    assert worker("follow", "0", "9") == "@mixer 0 idle\n"
    worker("start", "--x=1")
    assert worker("state") == f"{HOST} running\n"
    assert worker("follow", "0", "1") == "a\nb  c\n@mixer 2 running\n"
    assert worker("follow", "1", "0") == "b  c\n@mixer 2 running\n"
    assert worker("follow", "-1", "0") == "b  c\n@mixer 2 running\n"
    assert worker("follow", "-10", "0") == "a\nb  c\n@mixer 2 running\n"
    assert worker("failure") == ""
    (cloud.folder / "go").touch()
    assert worker("follow", "2", "60") == "@mixer 2 exited 7\n"
    assert worker("state") == f"{HOST} exited 7\n"
    assert worker("failure") == f"{HOST} exited 7, the end of its log:\n  a\n  b  c\n"

    cloud.play("echo anew; exit 0")
    worker("start", "--x=2")
    assert worker("follow", "2", "60") == "anew\n@mixer 1 exited 0\n"
    assert worker("failure") == ""
    assert (cloud.folder / "w0/mixer/.run/log.old").read_text() == "a\nb  c\n"


def test_a_program_that_a_signal_has_ended_is_not_finished(worker, cloud):
    cloud.play('echo "SIGTERM: saving step 7, then ending; run the same command to go on."; exit 0')
    worker("start")
    assert worker("follow", "0", "60").endswith("to go on.\n@mixer 1 interrupted\n")
    assert worker("state") == f"{HOST} interrupted\n"
    assert worker("failure") == ""
    worker("stop")
    assert worker("state") == f"{HOST} idle\n"


@pytest.mark.parametrize(
    ("program", "code"),
    [
        ("echo trained", 0),
        ("echo failed; exit 7", 7),
        ('echo "SIGTERM: saving step 7, then ending; run the same command to go on."', 75),
    ],
)
def test_in_the_foreground_an_engine_sees_the_log_and_whether_to_start_again(
    worker, cloud, program, code
):
    cloud.play(program)
    shown = worker("run", "--config=a b", "--x=1", code=code)
    assert shown.split()[0] in ("trained", "failed", "SIGTERM:")
    assert (cloud.folder / "arguments.0").read_text() == "--config=a b\0--x=1\0"
    assert worker("state") == f"{HOST} idle\n"


def test_never_two_programs(worker, cloud):
    cloud.play("sleep 60")
    scripts = [
        subprocess.Popen(
            ["bash", "mixer/scripts/tpu_worker.sh", "start", "--x=1"],
            cwd=cloud.folder / "w0",
            env={**cloud.environment, "WORKER": "0"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    shown = [script.communicate(timeout=30)[0] for script in scripts]
    assert [script.returncode for script in scripts] == [0, 0, 0]
    assert sorted("already running" in text for text in shown) == [False, True, True]
    assert "expected no other run" in worker("start", "--x=2", code=1)
    assert (cloud.folder / "starts.0").read_text() == "\n"
    worker("stop")
    worker("stop")
    assert worker("state") == f"{HOST} idle\n"


def test_a_program_whose_supervisor_was_killed_still_counts(worker, cloud):
    cloud.play('kill -9 $PPID; touch "$FAKE_CLOUD/killed"; sleep 2')
    worker("start")
    deadline = time.monotonic() + 20
    while not (cloud.folder / "killed").exists():
        assert time.monotonic() < deadline
    assert worker("state") == f"{HOST} running\n"
    assert worker("follow", "0", "60") == "@mixer 0 vanished\n"


def test_a_program_that_ignores_the_signal_is_killed(worker, cloud):
    cloud.play("trap '' TERM; touch \"$FAKE_CLOUD/deaf\"; while :; do sleep 0.1; done")
    worker("start")
    deadline = time.monotonic() + 20
    while not (cloud.folder / "deaf").exists():
        assert time.monotonic() < deadline
    worker("stop", "0.2")
    assert worker("state") == f"{HOST} idle\n"


def test_an_image_with_an_old_python_gets_a_new_one_through_uv(worker, cloud):
    shutil.rmtree(cloud.folder / "w0/mixer/.venv")
    tools = cloud.folder / "tools"
    tools.mkdir()
    for tool in [*TOOLS, "sed", "seq", "setsid", "sleep", "mv", "touch", "hostname"]:
        (tools / tool).symlink_to(shutil.which(tool) or "missing")
    calls = cloud.folder / "python3.calls"
    (tools / "python3").write_text(
        f"""#!/bin/bash
        case "$*" in
        "-c import sys; print"*) echo 3.10 ;;
        -c*) exit 1 ;;
        "-m uv python find 3.12") echo {cloud.folder}/bin/python ;;
        *) echo "$*" >>{calls} ;;
        esac
        """
    )
    (tools / "python3").chmod(0o755)
    (cloud.folder / "pip.0").unlink()
    for _ in range(2):
        worker("setup", PATH=str(tools), PYTHON="")
    assert calls.read_text() == 2 * (
        "-m pip install --user --quiet uv>=0.5,<1\n-m uv python install 3.12\n"
    )
    assert (cloud.folder / "pip.0").read_text() == (
        "-m pip install -r requirements-tpu.txt -c requirements.lock\n"
        "-m pip install --no-deps -e .\n"
    )

    shutil.rmtree(cloud.folder / "w0/mixer/.venv")
    (tools / "python3").write_text("#!/bin/bash\nexit 1\n")
    assert "install Python 3.11 or 3.12 on the workers" in worker(
        "setup", code=1, PATH=str(tools), PYTHON=""
    )


def test_bad_commands_are_refused(worker):
    assert "expected setup, start, run," in worker("fly", code=1)
