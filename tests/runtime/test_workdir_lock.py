"""The lock of a workdir: one run, and none after it was killed."""

import pathlib
import subprocess
import sys

import pytest
from children import read_line
from etils import epath

from mixer.runtime.workdir_lock import workdir_lock


def test_a_second_run_is_refused_until_the_first_ends_however_it_ends(tmp_path):
    workdir = tmp_path / "new" / "workdir"
    program = f"""
import time
from etils import epath
from mixer.runtime.workdir_lock import workdir_lock
with workdir_lock(epath.Path({str(workdir)!r})):
    print("locked", flush=True)
    time.sleep(600)
"""
    first = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert first.stdout
    assert read_line(first) == "locked\n"
    try:
        for _ in range(2):
            message = f"Another run is at work in {workdir}: process {first.pid} on "
            with pytest.raises(ValueError, match=message), workdir_lock(epath.Path(workdir)):
                pass
    finally:
        first.kill()
        first.wait(timeout=60)
        first.stdout.close()
    for _ in range(2):
        with (
            workdir_lock(epath.Path(workdir)),
            pytest.raises(ValueError, match="at work"),
            workdir_lock(epath.Path(workdir)),
        ):
            pass
    assert [path.name for path in pathlib.Path(workdir).iterdir()] == ["lock"]


def test_a_bucket_is_not_guarded_and_this_is_said(capsys):
    with workdir_lock(epath.Path("gs://bucket/run")):
        said = "Nothing guards gs://bucket/run against a second run in it: start only one.\n"
        assert capsys.readouterr().out == said
