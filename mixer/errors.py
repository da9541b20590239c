"""Errors for unknown names, with the known ones and the nearest of these."""

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Returns the known name that `name` was probably meant to be, None if none is similar.

    Names of keys, with dots, are compared by their last part. It may be misspelled, abbreviated to
    the initials of its words (`lr`), or be one word of it, if only one known name has that word.
    """
    ends = {_last(other): other for other in sorted(known)}
    last = _last(name)
    initials = {"".join(word[:1] for word in end.split("_")): end for end in ends}
    with_word = [end for end in ends if last in end.split("_") or end.startswith(last)]
    similar = difflib.get_close_matches(last, ends, n=1, cutoff=0.65)
    if len(last) > 1 and last in initials:
        similar = [initials[last]]
    elif len(last) > 2 and len(with_word) == 1:
        similar = with_word
    return ends[similar[0]] if similar else None


def _last(name: str) -> str:
    return name if "/" in name else name.rpartition(".")[2]


def suggestion(name: str, known: Iterable[str]) -> str:
    """Returns " Did you mean 'KNOWN'?", or nothing if no known name is similar."""
    match = nearest(name, known)
    return f" Did you mean {match!r}?" if match else ""


def unknown_name(kind: str, name: object, known: Iterable[str]) -> ValueError:
    """Returns the error to raise for a name that is not a known one."""
    known = sorted(known)
    return ValueError(
        f"Unknown {kind} {name!r}. Expected one of: {', '.join(known)}."
        f"{suggestion(str(name), known)}"
    )
