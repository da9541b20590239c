"""launch_tpu.sh: preemption, failure, interruption, and what is there already."""

import os
import signal
import subprocess
import sys
import time

from children import read_line
from fake_cloud import FLAGS, OVERRIDES, PROGRAM

RESTORE_SIGINT = (
    "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); "
    "os.execvp(sys.argv[1], sys.argv[1:])"
)


def test_preemption_leads_to_a_new_slice_until_the_program_finishes(cloud):
    cloud.play(
        """
        echo "start $start"
        if [ $start = 1 ]; then printf "READY ANSWERING-PREEMPTED" >"$FAKE_CLOUD/node"; exit 1; fi
        if [ $start = 2 ]; then printf TERMINATED >"$FAKE_CLOUD/node"; exit 143; fi
        """,
        # After a preemption there often is no free slice for a while.
        answers={"tpu-vm create": ["READY", "ERROR: no more capacity", "CREATING READY"]},
    )
    result = cloud.launch("run", *FLAGS, *PROGRAM, "--", *OVERRIDES)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("The slice was preempted") == 2
    assert "start 1\n" in result.stdout
    assert "start 3\n" in result.stdout
    assert cloud.arguments() == [*PROGRAM, *OVERRIDES]
    begin = ["state", "tpu-vm scp", "setup", "start", "follow"]
    again = ["tpu-vm delete", "tpu-vm create"]
    verbs = cloud.verbs()
    assert verbs == [
        *("tpu-vm create", *begin, "state", "follow", *again, "tpu-vm create", *begin),
        *(*again, *begin, "state", "tpu-vm delete"),
    ]


def test_a_suspended_queue_entry_is_deleted_and_queued_again(cloud):
    cloud.play('[ $start != 1 ] || { printf SUSPENDED >"$FAKE_CLOUD/queue"; exit 1; }')
    result = cloud.launch("run", *FLAGS, *PROGRAM, "--queue", "--spot")
    assert result.returncode == 0, result.stderr
    begin = ["queued-resources create", "state", "tpu-vm scp", "setup", "start", "follow"]
    deleted = "queued-resources delete"
    assert cloud.verbs() == [*begin, deleted, *begin, "state", deleted]


def test_a_refused_request_is_not_repeated(cloud):
    cloud.play("exit 0", answers={"queued-resources create": ["FAILED"]})
    result = cloud.launch("run", *FLAGS, *PROGRAM, "--queue")
    assert result.returncode == 1
    assert "the queue refused the request" in result.stderr
    cloud.play("exit 0", answers={"tpu-vm create": ["ERROR: no more capacity"]})
    assert cloud.launch("delete", *FLAGS[:2]).returncode == 0
    result = cloud.launch("run", *FLAGS, *PROGRAM)
    assert result.returncode == 1
    assert "no more capacity" in result.stderr
    assert "try --queue, --spot or another --zone" in result.stderr
    assert cloud.verbs().count("tpu-vm create") == 1


def test_a_failing_program_is_reported_and_not_repeated(cloud):
    cloud.play('echo "cannot $WORKER"; [ "$WORKER" != 1 ] || exit 3', workers=2)
    result = cloud.launch("run", *FLAGS, *PROGRAM)
    assert result.returncode == 3
    assert "The program failed with exit code 3" in result.stdout
    assert "exited 3, the end of its log:\n  cannot 1\n" in result.stdout
    assert "  cannot 0" not in result.stdout
    verbs = cloud.verbs()
    assert verbs.count("start") == 1
    assert verbs[-2:] == ["failure", "tpu-vm delete"]

    result = cloud.launch("run", *FLAGS, *PROGRAM, "--keep")
    assert result.returncode == 3
    assert (
        "The slice is billed until it is deleted: bash scripts/launch_tpu.sh delete"
        in result.stdout
    )
    assert "tpu-vm delete" not in cloud.verbs()
    assert cloud.launch("follow", *FLAGS[:2]).returncode == 3


def test_a_restarted_machine_is_started_again(cloud):
    # The program and its supervisor vanish without an exit code, as in a reboot.
    cloud.play("[ $start != 1 ] || { kill -9 $PPID $$; }")
    result = cloud.launch("run", *FLAGS, *PROGRAM)
    assert result.returncode == 0, result.stderr
    verbs = cloud.verbs()
    assert verbs.count("start") == 2
    assert verbs.count("stop") == 1
    assert verbs.count("tpu-vm create") == 1


def test_a_program_that_a_signal_has_ended_is_started_again(cloud):
    # With exit code 0 on both workers; the first one speaks for both.
    program = """[ $start$WORKER != 10 ] || echo "SIGTERM: nothing to save, ending; \
run the same command to go on." """
    cloud.play(program, workers=2)
    result = cloud.launch("run", *FLAGS, *PROGRAM)
    assert result.returncode == 0, result.stderr
    assert "A worker was interrupted: starting again" in result.stdout
    assert "The program finished" in result.stdout
    verbs = cloud.verbs()
    assert verbs.count("start") == 2
    assert verbs.count("tpu-vm create") == 1


def test_a_preemption_during_setup_is_noticed(cloud):
    cloud.play("exit 0", answers={"tpu-vm create": ["READY PREEMPTED"]})
    result = cloud.launch("run", *FLAGS, *PROGRAM)
    assert result.returncode == 0, result.stderr
    begin = ["tpu-vm create", "state", "tpu-vm scp"]
    rest = ["setup", "start", "follow", "state", "tpu-vm delete"]
    assert cloud.verbs() == [*begin, "tpu-vm delete", *begin, *rest]


def test_a_failed_setup_is_reported_and_the_slice_kept(cloud):
    (cloud.folder / "offline").touch()
    result = cloud.launch("run", *FLAGS, *PROGRAM)
    assert result.returncode == 1
    assert "Is a package index reachable" in result.stderr
    assert "setup or start failed" in result.stderr
    assert "The slice is billed until it is deleted" in result.stderr
    assert cloud.verbs() == ["tpu-vm create", "state", "tpu-vm scp", "setup"]


def test_trouble_between_laptop_and_cloud_deletes_nothing(cloud):
    errors = ["", "", "ERROR: offline", "ERROR: offline"]
    cloud.play("exit 0", answers={"queued-resources describe": errors})
    result = cloud.launch("run", *FLAGS, *PROGRAM)
    assert result.returncode == 0, result.stderr
    assert "unknown to gcloud" in result.stdout
    begin = ["tpu-vm create", "state", "tpu-vm scp", "setup", "start"]
    assert cloud.verbs() == [*begin, "follow", "follow", "follow", "state", "tpu-vm delete"]

    cloud.play("exit 0", answers={"queued-resources describe": ["ERROR: log in"]})
    result = cloud.launch("run", *FLAGS, *PROGRAM)
    assert result.returncode == 1
    assert "ERROR: log in" in result.stderr
    assert "gcloud auth login" in result.stderr
    assert cloud.verbs() == []


def read_until(process: subprocess.Popen, text: str) -> None:
    shown = ""
    while text not in shown:
        line = read_line(process)
        assert line, shown
        shown += line


def test_ctrl_c_leaves_the_run_which_can_be_taken_up(cloud):
    cloud.play('echo "step 1"; while [ ! -e "$FAKE_CLOUD/go" ]; do sleep 0.1; done')
    # Where tests run in the background SIGINT is ignored, and bash cannot trap it then.
    command = [sys.executable, "-c", RESTORE_SIGINT, "bash", "scripts/launch_tpu.sh", "run"]
    keywords = dict(cwd=cloud.clone, env=cloud.environment, stdout=subprocess.PIPE, text=True)
    with subprocess.Popen(
        [*command, *FLAGS, *PROGRAM], **keywords, start_new_session=True
    ) as process:
        read_until(process, "step 1\n")
        os.killpg(process.pid, signal.SIGINT)
        shown = process.communicate(timeout=30)[0]
    assert process.returncode == 130
    for verb in "follow", "delete":
        expected = f"bash scripts/launch_tpu.sh {verb} --name=mixer-b16 --zone=europe-west4-a\n"
        assert expected in shown
    assert "tpu-vm delete" not in cloud.verbs()

    result = cloud.launch("status", *FLAGS[:2])
    assert "Slice mixer-b16: READY" in result.stdout
    assert result.stdout.endswith(" running\n")
    result = cloud.launch("setup", *FLAGS[:2])
    assert result.returncode == 1
    assert "a program is running" in result.stderr
    result = cloud.launch("start", *FLAGS, *PROGRAM, "--", "--config.seed=1")
    assert result.returncode == 1
    assert "expected no other run" in result.stderr
    cloud.calls()

    with subprocess.Popen(
        [*command, *FLAGS, *PROGRAM], **keywords, start_new_session=True
    ) as process:
        read_until(process, "already running")
        (cloud.folder / "go").touch()
        shown = process.communicate(timeout=30)[0]
    assert process.returncode == 0, shown
    assert "step 1\n" in shown
    assert cloud.verbs() == ["state", "start", "follow", "state", "tpu-vm delete"]
    assert (cloud.folder / "starts.0").read_text() == "\n"


def test_stop_ends_the_program_and_keeps_the_slice(cloud):
    cloud.play("sleep 60")
    assert cloud.launch("create", *FLAGS).returncode == 0
    result = cloud.launch("start", *FLAGS, *PROGRAM)
    assert result.returncode != 0  # nothing has been set up
    assert cloud.launch("setup", *FLAGS[:2]).returncode == 0
    for words in ("started", "already running"):
        result = cloud.launch("start", *FLAGS, *PROGRAM)
        assert result.returncode == 0, result.stderr
        assert words in result.stdout
    begin = time.monotonic()
    assert cloud.launch("stop", *FLAGS[:2]).returncode == 0
    assert time.monotonic() - begin < 10
    assert cloud.launch("status", *FLAGS[:2]).stdout.endswith(" idle\n")
    result = cloud.launch("follow", *FLAGS[:2])
    assert result.returncode == 1
    assert "it or its slice was stopped" in result.stdout
    assert (cloud.folder / "starts.0").read_text() == "\n"
    assert (cloud.folder / "node").exists()
    result = cloud.launch("create", *FLAGS[:2], "--accelerator_type=v3-8")
    assert result.returncode == 1
    assert "expected the slice mixer-b16 to be a v3-8, got a v3-32" in result.stderr
