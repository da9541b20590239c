"""What programs print and how they end, whatever goes wrong."""

import os
import pathlib
import subprocess
import sys
import textwrap

import pytest
from children import one_device

ROOT = pathlib.Path(__file__).parent.parent.parent
PROGRAMS = ["-m mixer.main", "-m tests.peers"] + [
    f"scripts/{path.name}" for path in sorted((ROOT / "scripts").glob("*.py"))
]


def run(*arguments: str, cwd: pathlib.Path = ROOT, **variables: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": one_device(), **variables}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
    )


def run_main(*arguments: str, cwd: pathlib.Path = ROOT, **variables: str):
    return run("-m", "mixer.main", *arguments, cwd=cwd, **variables)


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_is_a_success_and_a_typo_is_not(program):
    shown = run(*program.split(), "--help")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "flags:" in shown.stdout
    refused = run(*program.split(), "--no_such_flag=1")
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: ")
    assert "no_such_flag" in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Expected --workdir; got none.\nExpected --config; got none."),
        (["--workdir=", "--config={ok}"], "to be a folder, here or in gs://; got ''"),
        (["--workdir=http://a/b", "--config={ok}"], "here or in gs://; got 'http://a/b'"),
        (
            ["--workdir=ok.py", "--config={ok}"],
            "Expected a folder as --workdir; got the file {cwd}/ok.py",
        ),
        (["--workdir=w", "--config={ok}", "x"], "Expected flags alone; got x"),
        (
            ["--workdir=w", "--config=o.py"],
            "there is no file 'o.py' in {cwd}. Did you mean 'ok.py'",
        ),
        (["--workdir=w", "--config={cwd}"], "there is no file '{cwd}'"),
        (["--workdir=w", "--config=name.py:B/16"], "takes no arguments; got 'B/16'. Use --config="),
        (["--workdir=w", "--config={ok}:vitt"], "Unknown family of digits.py 'vitt'."),
        (["--workdir=w", "--config=name.py"], "name.py, line 3: NameError: name 'fo' is not"),
        (["--workdir=w", "--config=syntax.py"], "syntax.py, line 2: SyntaxError: "),
        (["--workdir=w", "--config=empty.py"], "Expected a function get_config() in empty.py"),
        (["--workdir=w", "--config=none.py"], "get_config() in none.py to return a ConfigDict."),
        (["--workdir=w", "--config=says.py"], "--config=says.py: this size is unknown\n"),
        (["--workdir=w", "--config={ok}", "--config.optimizr.name=a"], 'Did you mean "optimizer"'),
        (["--workdir=w", "--config={ok}", "--config.seed.x=1"], "seed.x"),
        (
            ["--workdir=w", "--config={ok}", "--config.seed=ab"],
            "Expected seed to be an int, 0 <= x",
        ),
        (["--workdir=w", "--config={ok}", "--config.optimizer.lr=1"], "'optimizer.learning_rate'"),
        (["--workdir=w", "--config={ok}", "--config.seed=4294967296"], "0 <= x <= 4294967295"),
        (
            ["--workdir=w", "--config={ok}", "--config.optimizer=adam"],
            "--config.optimizer.name=VALUE",
        ),
        (["--workdir=w", "--config={ok}", "--config.eval_splits="], "of the section eval_splits"),
        (["--workdir=w", "--config={ok}", "--config.seed"], "Missing value for flag --config.seed"),
    ],
)
def test_a_wrong_command_line_is_one_message(tmp_path, arguments, message):
    (tmp_path / "ok.py").write_text((ROOT / "configs/digits.py").read_text())
    (tmp_path / "name.py").write_text("import math\ndef get_config():\n    return fo\n")
    (tmp_path / "syntax.py").write_text("\ndef get_config(:\n")
    (tmp_path / "empty.py").write_text("")
    (tmp_path / "none.py").write_text("def get_config():\n    pass\n")
    says = "def get_config():\n    raise ValueError('this size is unknown')\n"
    (tmp_path / "says.py").write_text(says)
    names = {"ok": "ok.py", "cwd": str(tmp_path)}
    run = run_main(*(argument.format(**names) for argument in arguments), cwd=tmp_path)
    assert run.returncode in (1, 2)
    assert run.stdout == ""
    assert run.stderr.startswith("error: ")
    assert message.format(**names) in run.stderr
    assert "Traceback" not in run.stderr
    assert not (tmp_path / "w").exists()


def test_a_home_folder_is_expanded_and_a_device_that_is_not_there_is_named(tmp_path):
    config = f"--config={ROOT}/configs/digits.py"
    run = run_main(config, "--workdir=~/w", cwd=tmp_path, HOME=str(tmp_path), JAX_PLATFORMS="cuda")
    assert run.returncode == 1
    message = (
        "error: Expected JAX_PLATFORMS to name devices of this machine, such as cpu; got 'cuda'"
    )
    assert run.stderr.startswith(message)
    assert "Traceback" not in run.stderr
    assert not (tmp_path / "~").exists()


def test_programs_do_not_inherit_what_changes_their_results(tmp_path):
    variables = {"JAX_ENABLE_X64": "1", "MPLBACKEND": "module://not_installed"}
    body = "import jax, matplotlib as m\nprint(jax.numpy.zeros(3, float).dtype, m.get_backend())"
    run = own_program(tmp_path, body, **variables)
    assert (run.stdout, run.returncode) == ("float32 agg\n", 0)


def own_program(tmp_path: pathlib.Path, body: str, **variables: str) -> subprocess.CompletedProcess:
    """Runs a program whose `main` has that body."""
    (tmp_path / "program.py").write_text(
        f"from mixer.runtime import command\ndef main():\n{textwrap.indent(body, '    ')}\n"
        "command.run(main)\n"
    )
    return run("program.py", cwd=tmp_path, **variables)


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        ("raise ValueError('Expected a')", 1, "error: Expected a\n"),
        ("open('/nowhere')", 1, "error: [Errno 2] No such file or directory: '/nowhere'"),
        ("raise FloatingPointError('not finite')", 1, "error: not finite"),
        ("raise MemoryError('for 3 bytes')", 1, "error: Out of memory: "),
        ("raise KeyboardInterrupt", 130, "\nInterrupted.\n"),
        ("print('x' * 10**6); raise BrokenPipeError", 141, ""),
        ("raise AssertionError('a bug')", 1, "Traceback"),
    ],
)
def test_every_error_ends_the_program_with_a_code(tmp_path, body, code, message):
    run = own_program(tmp_path, body)
    assert run.returncode == code
    assert run.stderr.startswith(message)


def test_names_that_the_terminal_cannot_show_are_no_error(tmp_path):
    body = r"print('caf\xe9 \udce9')"
    run = own_program(tmp_path, body, PYTHONIOENCODING="ascii")
    assert (run.returncode, run.stdout) == (0, "caf\\xe9 \\udce9\n")
    run = own_program(tmp_path, body, PYTHONIOENCODING="utf-8")
    assert (run.returncode, run.stdout) == (0, "caf\xe9 \\udce9\n")


@pytest.mark.parametrize(("command", "out"), [("| head -1", "0\n"), ("--help | true", "")])
def test_a_closed_pipe_is_no_traceback(tmp_path, command, out):
    own_program(tmp_path, "for n in range(100_000): print(n)")
    command = f"{sys.executable} program.py {command}"
    run = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert (run.returncode, run.stdout, run.stderr) == (141, out, "")
