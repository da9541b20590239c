"""Programs outlive the reader of their output, and terminals lack characters."""

import os
import pty
import subprocess
import sys

import pytest
from children import read_line

from mixer.runtime.naming import naming
from mixer.runtime.output import lasting_output

PROGRAM = """
import sys
import rich.console
from mixer.runtime.output import lasting_output

with lasting_output():
    rich_console = rich.console.Console(soft_wrap=True)
    print("first ±", flush=True)
    sys.stdin.readline()
    for number in range(20_000):
        print("line", number)
    rich_console.print("of rich ± é \\udcff")
    print("on stderr", file=sys.stderr)
open(sys.argv[1], "w").write("went on")
"""


@pytest.fixture
def done(tmp_path):
    return tmp_path / "done"


def start(done, **streams) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", PROGRAM, done], stdin=subprocess.PIPE, **streams)


def test_the_reader_of_a_pipe_may_end(done):
    process = start(done, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert read_line(process).startswith(b"first")
    process.stdout.close()
    process.stdin.close()
    shown = process.stderr.read().decode()
    process.stderr.close()
    assert process.wait(timeout=60) == 0
    assert shown == (
        "stdout is closed ([Errno 32] Broken pipe): the program goes on without it.\non stderr\n"
    )
    assert done.read_text() == "went on"


def test_a_terminal_may_go(done):
    master, slave = pty.openpty()
    process = start(done, stdout=slave, stderr=slave, start_new_session=True)
    os.close(slave)
    assert os.read(master, 100).startswith(b"first")
    os.close(master)
    process.communicate(b"\n", timeout=60)
    assert process.returncode == 0
    assert done.read_text() == "went on"


def test_output_to_a_full_disk_or_to_nothing_at_all(done):
    with open("/dev/full", "w") as full:
        process = start(done, stdout=full, stderr=subprocess.PIPE)
        _, shown = process.communicate(b"\n", timeout=60)
    assert process.returncode == 0
    assert b"stdout is closed ([Errno 28] No space left on device)" in shown
    assert done.read_text() == "went on"
    done.unlink()
    command = ["sh", "-c", f'"$0" -c "$1" {done} >&- 2>&- </dev/null', sys.executable, PROGRAM]
    assert subprocess.run(command, timeout=60).returncode == 0
    assert done.read_text() == "went on"


@pytest.mark.parametrize(
    ("encoding", "first", "last"),
    [
        ("ascii", b"first \\xb1\n", b"of rich \\xb1 \\xe9 \\udcff\n"),
        ("latin-1", b"first \xb1\n", b"of rich \xb1 \xe9 \\udcff\n"),
        ("utf-8", "first ±\n".encode(), "of rich ± é \\udcff\n".encode()),
    ],
)
def test_characters_that_a_terminal_lacks_become_escapes(encoding, first, last, done):
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    process = start(done, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
    shown, _ = process.communicate(b"\n", timeout=60)
    assert process.returncode == 0
    lines = shown.splitlines(keepends=True)
    assert (lines[0], lines[-1]) == (first, last)


def test_the_streams_are_given_back():
    streams = sys.stdout, sys.stderr
    with lasting_output():
        assert sys.stdout is not streams[0]
        assert sys.stdout.isatty() == streams[0].isatty()
    assert (sys.stdout, sys.stderr) == streams


def test_an_error_of_a_write_names_the_file(tmp_path):
    message = r"\[Errno 28\] No space left on device: '/dev/full'"
    with pytest.raises(OSError, match=message), naming("/dev/full"), open("/dev/full", "w") as file:
        file.write("x")
    with pytest.raises(FileNotFoundError, match=f"'{tmp_path}/no'"), naming("other"):
        (tmp_path / "no").read_text()
