"""The watchdog bites when nothing is finished, and only then."""

import os
import threading
import time

import pytest

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
        released.wait()

    released = threading.Event()
    threading.Thread(target=wait_for_a_disk, args=(released,)).start()
    with Watchdog(0.3) as dog:
        batches = dog.watched(iter([1, 2]))
        assert next(batches) == 1
        begin = time.monotonic()
        while not ends and time.monotonic() < begin + 20:
            time.sleep(0.01)
    released.set()
    assert ends == [watchdog.EXIT_CODE]
    assert time.monotonic() - begin >= 0.25
    shown = capfd.readouterr().err
    assert "for 0.3 s (watchdog_seconds)" in shown
    assert "in wait_for_a_disk" in shown
    assert "in test_a_run_that_hangs" in shown


def test_who_works_is_not_bitten(ends):
    with Watchdog(1.0) as dog:
        for _ in range(15):
            dog.beat()
            time.sleep(0.1)
    before = threading.active_count()
    with Watchdog(0.05):  # nothing is finished yet: still compiling
        time.sleep(0.2)
    with Watchdog(0) as dog:  # never
        dog.beat()
        time.sleep(0.1)
    assert threading.active_count() <= before
    assert ends == []


def test_a_negative_time_is_refused():
    with pytest.raises(ValueError, match="watchdog_seconds of at least 0 \\(never\\); got -1"):
        Watchdog(-1)
