"""What all programs of this project share: their flags, their error messages, their exit codes.

The exit code is 0 for success and --help, 1 for what went wrong, 2 for a command line that cannot
work, 130 for Ctrl-C. What a user can get wrong is one message, without a traceback.
"""

import contextlib
import importlib.util
import inspect
import io
import os
import pathlib
import re
import sys
import traceback
import types
from collections.abc import Callable
from typing import Any, NoReturn

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from mixer.config.keys import KEYS, find_key
from mixer.errors import nearest
from mixer.runtime import startup
from mixer.shipped import shipped

# What absl and ml_collections raise for a command line that cannot work.
WRONG_FLAGS = (flags.Error, ValueError, TypeError, KeyError, AttributeError, IndexError)


def run(main: Callable[..., None], *, takes_arguments: bool = False) -> NoReturn:
    """Parses the flags, calls `main`, with the other arguments if it takes them, and exits."""
    # With it, mixup and the masks would be drawn from other bits.
    os.environ["JAX_ENABLE_X64"] = "0"
    startup.avoid_absent_tpu()
    startup.keep_tpu_products_whole()
    os.environ["MPLBACKEND"] = "agg"  # a notebook's own is inherited, and may not be installed here
    for stream in (sys.stdout, sys.stderr):  # it may not be able to show a file's or class's name
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")

    def checked(argv: list[str]) -> None:
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.ERROR)  # the libraries' own messages: --verbosity=0
        try:
            if argv[1:] and not takes_arguments:
                raise app.UsageError(f"Expected flags alone; got {' '.join(argv[1:])}")
            main(*[argv[1:]] * takes_arguments)
            sys.stdout.flush()
        except KeyboardInterrupt:
            print("\nInterrupted.", file=sys.stderr)
            sys.exit(130)
        except BrokenPipeError:
            _end_of_pipe()
        except Exception as error:
            sys.exit(report(error))

    app.run(checked, flags_parser=_parse_flags)


def report(error: Exception) -> int:
    """Prints an error, with a traceback if it is a bug or --verbosity asks for it.

    Returns the exit code.
    """
    if isinstance(error, app.UsageError):
        print(f"error: {error}\nSee --help.", file=sys.stderr)
        return 2
    message = explained(error)
    if message is None or flags.FLAGS["verbosity"].present:
        traceback.print_exception(error)
    else:
        print(f"error: {message}\n(--verbosity=0 shows where.)", file=sys.stderr)
    return 1


def end(code: int) -> NoReturn:
    """Ends the process at once, without waiting for threads and other processes."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):  # nobody reads it any more
            stream.flush()
    os._exit(code)


def _end_of_pipe() -> NoReturn:
    """Ends as a program does whose output nobody reads any more, as in `| head -1`."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(141)


def explained(error: Exception) -> str | None:
    """Returns the message for what a user or the system got wrong, None for a bug."""
    text = str(error)
    if isinstance(error, ValueError | OSError | FloatingPointError):
        return text
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in text:
        return f"Out of memory: use smaller batches or a smaller model. {text.splitlines()[:1]}"
    platforms = os.environ.get("JAX_PLATFORMS")
    if platforms and isinstance(error, RuntimeError | AssertionError) and not _finds_devices():
        return (
            f"Expected JAX_PLATFORMS to name devices of this machine, such as cpu; got "
            f"{platforms!r}. {text}"
        )
    return None


def _finds_devices() -> bool:
    import jax

    try:
        return bool(jax.devices())
    except (RuntimeError, AssertionError):
        return False


def _parse_flags(argv: list[str]) -> list[str]:
    try:
        try:
            return flags.FLAGS(argv)
        except SystemExit as ended:  # --help and its kind, which absl ends with 1
            sys.stdout.flush()  # a short text is still in the buffer
            sys.exit(0 if ended.code == 1 else ended.code)
    except BrokenPipeError:
        _end_of_pipe()
    except WRONG_FLAGS as error:
        print(f"error: {_flag_message(str(error.args[0]))}\nSee --help.", file=sys.stderr)
        sys.exit(2)


def _flag_message(text: str) -> str:
    """Returns a message of absl or ml_collections as ours: expected, got."""
    if override := re.match(r"flag --config\.([\w.]+)=(.*?): ", text):
        path, value = override.groups()
        if inside := [name for name in KEYS if name.startswith(f"{path}.")]:
            return (
                f"Expected keys of the section {path}, such as --config.{inside[0]}=VALUE; got "
                f"{value!r}."
            )
        if key := find_key(path):
            return f"Expected {path} to be {key.expected()}; got {value!r}."
    return re.sub(
        r"flag --(\w+)=None: Flag .* value other than None\.", r"Expected --\1; got none.", text
    )


class _PathParser(flags.ArgumentParser):
    """Expands `~`, which a shell does not do in --flag=~/path."""

    def parse(self, argument: str) -> str:
        return os.path.expanduser(argument)

    def flag_type(self) -> str:
        return "path"


def path_flag(name: str, default: str | None, help_text: str, **options: Any) -> Any:
    """Defines a flag for a path; returns its holder, as `flags.DEFINE_string`."""
    return flags.DEFINE(
        _PathParser(), name, default, help_text, serializer=flags.ArgumentSerializer(), **options
    )


def positive_integers(flag: flags.FlagHolder[list[str]]) -> list[int]:
    """Returns the numbers of a list flag; ValueError unless it has one or more positive ones."""
    values = flag.value or []
    if not values or not all(value.strip().isdecimal() and int(value) for value in values):
        raise ValueError(f"Expected --{flag.name} to be positive integers; got {flag.value}.")
    return [int(value) for value in values]


def config_flag(flag_values: flags.FlagValues = flags.FLAGS) -> Any:
    """Defines --config=FILE[:ARGUMENTS], whose keys are overridden by --config.KEY=VALUE."""
    holder = config_flags.DEFINE_config_file(
        "config",
        help_string="Config file, FILE[:ARGUMENTS].",
        flag_values=flag_values,
        # Unknown keys are accepted here, as `check_config` names the nearest known one.
        accept_new_attributes=True,
        lock_config=False,
    )
    flag_values["config"].parser = _ConfigParser()
    return holder


def read_config(text: str) -> ConfigDict:
    """Returns the config that FILE[:ARGUMENTS] names; ValueError if there is none."""
    return _ConfigParser().parse(text)


class _ConfigParser(flags.ArgumentParser):
    """Executes FILE and calls its `get_config`, with ARGUMENTS if there are any."""

    def parse(self, text: str) -> ConfigDict:
        path, colon, arguments = text.partition(":")
        module = load_config_file(path)
        parameters = inspect.signature(module.get_config).parameters
        if colon and not parameters:
            raise ValueError(f"{path} takes no arguments; got {arguments!r}. Use --config={path}")
        with _named_errors(path):
            config = module.get_config(*([arguments] if colon else []))
        if not isinstance(config, ConfigDict):
            raise ValueError(f"Expected get_config() in {path} to return a ConfigDict.")
        # Given on the command line, one way to say the length of a run replaces the other.
        given = {argument.partition("=")[0].lstrip("-") for argument in sys.argv}
        for name, other in (("num_steps", "num_epochs"), ("num_epochs", "num_steps")):
            if f"config.{name}" in given and f"config.{other}" not in given and other in config:
                del config[other]
        return config

    def flag_type(self) -> str:
        return "config file"


class _named_errors:
    """Turns any error in a config file into a ValueError that names the file and the line."""

    def __init__(self, path: str):
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, Exception):
            return
        lines = [
            frame.lineno
            for frame in traceback.extract_tb(error.__traceback__)
            if frame.filename == os.path.abspath(self._path)
        ]
        line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
        if isinstance(error, ValueError) and lines:
            raise ValueError(str(error)) from error  # what the config file itself refuses
        place = f"{self._path}, line {line}" if line else self._path
        raise ValueError(f"{place}: {type(error).__name__}: {error}") from error


def load_config_file(path: str) -> types.ModuleType:
    """Executes a config file and returns it as a module, which has a `get_config`.

    `configs/NAME.py` that is not in the current folder is the one that comes with the code.

    Raises:
      ValueError: there is no such file, it cannot be executed, or it has no `get_config`.
    """
    path = os.path.expanduser(path)
    wanted = pathlib.Path(path)
    is_ours = wanted.parts[:-1] == ("configs",)
    if is_ours and not wanted.is_file() and shipped(path).is_file():
        path = str(shipped(path))
    if not os.path.isfile(path):
        others = [
            *wanted.parent.glob("*.py"),
            *(shipped("configs").glob("*.py") if is_ours else ()),
        ]
        near = nearest(wanted.stem, [other.stem for other in others])
        raise ValueError(
            f"Expected a config file; there is no file {path!r} in {os.getcwd()}."
            + (f" Did you mean {str(wanted.with_name(f'{near}.py'))!r}?" if near else "")
        )
    spec = importlib.util.spec_from_file_location("config_file", os.path.abspath(path))
    if spec is None or spec.loader is None:
        raise ValueError(f"Expected a config file NAME.py; got {path!r}.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    with _named_errors(path):
        spec.loader.exec_module(module)
    if not callable(getattr(module, "get_config", None)):
        raise ValueError(f"Expected a function get_config() in {path}; there is none.")
    return module
