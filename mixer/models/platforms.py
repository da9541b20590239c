"""Branches for the compiler of one platform, and programs without them.

A branch gives the same values as the default, up to rounding, in less time. What is exported has
the default branch alone: other runtimes know no branches, and the layout that a TPU is given has no
guaranteed meaning in a later version.
"""

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import Any

from jax import lax

_PORTABLE = contextvars.ContextVar("portable", default=False)


@contextlib.contextmanager
def portable() -> Iterator[None]:
    """Lets functions that are traced inside the context have default branches alone.

    What was traced before keeps its branches: give `jax.jit` a new function.
    """
    token = _PORTABLE.set(True)
    try:
        yield
    finally:
        _PORTABLE.reset(token)


def platform_dependent(
    *args: Any, default: Callable[..., Any], **branches: Callable[..., Any]
) -> Any:
    """Returns what `jax.lax.platform_dependent` does; inside of `portable`, `default(*args)`."""
    if _PORTABLE.get():
        return default(*args)
    return lax.platform_dependent(*args, default=default, **branches)
