"""Cases of which the fast tests take some."""

from collections.abc import Callable, Iterable
from typing import Any

import pytest


def slow_unless(is_fast: Callable[[Any], bool], cases: Iterable[Any]) -> list[Any]:
    """Returns the cases for `parametrize`, those that are not fast marked as slow."""
    return [case if is_fast(case) else _slow(case) for case in cases]


def slow_after(count: int, cases: Iterable[Any]) -> list[Any]:
    """Returns the cases for `parametrize`, all but the first `count` marked as slow."""
    return [case if n < count else _slow(case) for n, case in enumerate(cases)]


def _slow(case: Any) -> Any:
    values = case if isinstance(case, tuple) else (case,)
    return pytest.param(*values, marks=pytest.mark.slow)
