"""Workloads in processes of their own, as their users would run them.

In one process they would share what one of them sets for itself: the allocator, pools of threads.
"""

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection

from mixer.benchmark.timing import Workload

_SPAWN = multiprocessing.get_context("spawn")  # a fork would inherit JAX's state, not its threads


def in_own_process(
    build: Callable[[], Workload], prepare: Callable[[], None] | None = None
) -> Workload:
    """Returns what `build()` makes, in a process that lives as long as this one.

    Both are functions of modules, or partial ones; `prepare` is called before anything else.

    Raises:
      ImportError: it needs what is not installed.
      RuntimeError: it could not be built for another reason, or the process ended.
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
        raise RuntimeError("its process ended, out of memory perhaps") from None
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
    except EOFError:  # the other side has ended
        pass
    except ImportError as error:
        connection.send(ImportError(str(error)))
    except Exception as error:  # not itself: it may hold what cannot be sent
        connection.send(RuntimeError(f"{type(error).__name__}: {error}"))
