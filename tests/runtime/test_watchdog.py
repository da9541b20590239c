"""The watchdog bites when nothing is finished, and only then."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from cases import slow_after
from children import read_line

from mixer.runtime import watchdog
from mixer.runtime.watchdog import Watchdog


@pytest.fixture
def ends(monkeypatch):
    """Records the exit codes; the program goes on."""
    codes = []
    monkeypatch.setattr(os, "_exit", codes.append)
    return codes


def test_a_run_that_hangs_ends_with_the_stacks_of_all_threads(ends, capfd):
    def wait_for_a_disk(released: threading.Event) -> None:
        released.wait(60)

    released = threading.Event()
    threading.Thread(target=wait_for_a_disk, args=(released,)).start()
    with Watchdog(0.3) as dog, dog.phase("training"):
        dog.beat()
        begin = time.monotonic()
        while not ends and time.monotonic() < begin + 20:
            time.sleep(0.01)
    released.set()
    assert ends == [watchdog.EXIT_CODE]
    assert time.monotonic() - begin >= 0.25
    shown = capfd.readouterr().err
    assert (
        "\nNothing was finished for 0.3 s (watchdog_seconds) while training: the run ends." in shown
    )
    assert "in wait_for_a_disk" in shown
    assert "in test_a_run_that_hangs" in shown


def test_who_works_is_not_bitten(ends):
    with Watchdog(1.0) as dog, dog.phase("training"):
        for _ in range(15):
            dog.beat()
            time.sleep(0.1)
    before = threading.active_count()
    with Watchdog(0.05) as dog:
        time.sleep(0.2)  # in no phase
        with dog.phase("training"), dog.phase("compiling the training step"):
            time.sleep(0.3)  # has a limit of its own
    with Watchdog(0) as dog, dog.phase("training"):  # never
        time.sleep(0.1)
    time.sleep(0.1)
    assert threading.active_count() <= before
    assert ends == []


@pytest.mark.parametrize("phase", [name for name in watchdog.PHASES if name != "training"])
def test_each_phase_before_the_first_step_has_its_limit(phase, ends, capfd, monkeypatch):
    factor, least = watchdog.PHASES[phase]
    assert least >= 60
    monkeypatch.setitem(watchdog.PHASES, phase, (factor, 0.3))
    with Watchdog(0.1) as dog, dog.phase("training"), dog.phase(phase):
        begin = time.monotonic()
        while not ends and time.monotonic() < begin + 20:
            time.sleep(0.01)
    assert ends == [watchdog.EXIT_CODE]
    limit = max(0.1 * factor, 0.3)
    assert time.monotonic() - begin >= limit - 0.02
    assert f"for {limit:g} s (watchdog_seconds) while {phase}: the" in capfd.readouterr().err


PAUSED = """
import sys, time
from mixer.runtime import watchdog

if sys.argv[1] == "idle":
    watchdog.end_if_idle(1.0)
    print("watched", flush=True)
    sys.stdin.readline()
else:
    with watchdog.Watchdog(1.0) as dog, dog.phase("training"):
        print("watched", flush=True)
        sys.stdin.readline()
"""


@pytest.mark.parametrize("kind", slow_after(1, ["phase", "idle"]))
def test_the_time_in_which_a_process_is_stopped_does_not_count(kind):
    process = subprocess.Popen(
        [sys.executable, "-c", PAUSED, kind],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert read_line(process) == "watched\n"
        process.send_signal(signal.SIGSTOP)
        time.sleep(3)
        process.send_signal(signal.SIGCONT)
        time.sleep(0.4)
        assert process.poll() is None
        _, shown = process.communicate(timeout=30)  # its end of the pipe closes: it goes on
    finally:
        process.kill()
        process.wait(timeout=60)
    assert (process.returncode, shown) == (0, "")


def test_a_program_that_waits_for_a_pipe_ends_and_one_that_computes_does_not(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    program = """
import sys, time
from mixer.runtime import watchdog

watchdog.end_if_idle(2.0)
begin = time.monotonic()
while time.monotonic() < begin + 4.5:
    sum(range(100_000))
print("computed", flush=True)
open(sys.argv[1]).read()
"""
    command = [sys.executable, "-c", program, str(tmp_path / "pipe")]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert run.returncode == watchdog.EXIT_CODE
    assert run.stdout == "computed\n"
    assert run.stderr.startswith("\nNothing was computed for 2 s: the program ends.")
    assert 'File "<string>", line 10 in <module>' in run.stderr


@pytest.mark.parametrize("seconds", [-1, "soon", float("nan")])
def test_what_is_no_time_is_refused(seconds):
    with pytest.raises(ValueError, match="watchdog_seconds of at least 0 \\(never\\); got "):
        Watchdog(seconds)
