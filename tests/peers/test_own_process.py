"""A workload runs in its own process, and its failures are reported here."""

import functools
import os
import pathlib

import pytest

from mixer.benchmark.timing import Workload
from tests.peers.own_process import in_own_process


def writes_its_process(path: pathlib.Path) -> Workload:
    def run(calls: int) -> None:
        with path.open("a") as file:
            file.write(f"{calls} {os.getpid()} {os.environ.get('PREPARED')}\n")

    return Workload(run, compile_s=7.0, program_bytes=5)


def prepare() -> None:
    os.environ["PREPARED"] = "yes"


def needs_a_package() -> Workload:
    raise ModuleNotFoundError("No module named 'timm'")


def fails() -> Workload:
    raise KeyError("reported")


def ends() -> Workload:
    os._exit(1)


def test_the_work_is_done_in_another_process(tmp_path):
    work = in_own_process(functools.partial(writes_its_process, tmp_path / "calls"), prepare)
    assert (work.compile_s, work.program_bytes) == (7.0, 5)
    work.run(2)
    work.run(3)
    first, second = (line.split() for line in (tmp_path / "calls").read_text().splitlines())
    assert (first[0], second[0], first[1], first[2]) == ("2", "3", second[1], "yes")
    assert int(first[1]) != os.getpid()
    assert "PREPARED" not in os.environ


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (needs_a_package, ImportError, "No module named 'timm'"),
        (fails, RuntimeError, "KeyError: 'reported'"),
        (ends, RuntimeError, "its process died"),
    ],
)
def test_failures_are_reported(build, error, message):
    with pytest.raises(error, match=message):
        in_own_process(build)
