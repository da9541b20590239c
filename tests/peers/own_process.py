"""Runs a workload in its own process, so that its allocator and thread pools are not shared."""

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection

from mixer.benchmark.timing import Workload

_SPAWN = multiprocessing.get_context("spawn")  # a fork would inherit JAX without its threads


def in_own_process(
    build: Callable[[], Workload], prepare: Callable[[], None] | None = None
) -> Workload:
    """Returns the workload that `build()` makes, running in a daemon process.

    Both arguments must be picklable, i.e. module-level functions or partials of them; `prepare` is
    called first.

    Raises:
      ImportError: `build` needs a package that is not installed.
      RuntimeError: `build` failed for another reason, or the process died.
    """
    here, there = _SPAWN.Pipe()
    process = _SPAWN.Process(target=_serve, args=(there, build, prepare), daemon=True)
    process.start()
    there.close()
    compile_s, program_bytes = _answer(here)

    def run(calls: int) -> None:
        here.send(calls)
        _answer(here)

    return Workload(run, compile_s, program_bytes)


def _answer(connection: Connection) -> tuple[float, int | None]:
    try:
        answer = connection.recv()
    except EOFError:
        raise RuntimeError("its process died, possibly out of memory") from None
    if isinstance(answer, Exception):
        raise answer
    return answer


def _serve(
    connection: Connection, build: Callable[[], Workload], prepare: Callable[[], None] | None
) -> None:
    try:
        if prepare:
            prepare()
        work = build()
        connection.send((work.compile_s, work.program_bytes))
        while True:
            work.run(connection.recv())
            connection.send((0.0, None))
    except EOFError:  # the parent has exited
        pass
    except ImportError as error:
        connection.send(ImportError(str(error)))
    except Exception as error:  # converted, as it may not be picklable
        connection.send(RuntimeError(f"{type(error).__name__}: {error}"))
