"""Errors for unknown names, with the known ones and the nearest of these."""

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Returns the known name most similar to `name`, or None if there are no known names."""
    matches = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.0)
    return matches[0] if matches else None


def unknown_name(kind: str, name: object, known: Iterable[str]) -> ValueError:
    """Returns the error to raise for a name that is not a known one."""
    known = sorted(known)
    return ValueError(
        f"Unknown {kind} {name!r}. Expected one of: {', '.join(known)}. "
        f"Did you mean {nearest(str(name), known)!r}?"
    )
