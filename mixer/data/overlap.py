"""Which examples two splits share, and a split with itself, whatever they are called."""

import collections
from collections.abc import Sequence
from typing import NamedTuple


class Piece(NamedTuple):
    """Examples in a row: those at `start` to `end`, exclusive, of a file or of a split."""

    place: str
    start: int
    end: int


def count_shared(first: Sequence[Piece], second: Sequence[Piece]) -> int:
    """Returns how many pairs of an example of `first` and one of `second` are the same example."""
    in_place = collections.defaultdict(list)
    for piece in second:
        in_place[piece.place].append(piece)
    return sum(
        max(0, min(a.end, b.end) - max(a.start, b.start)) for a in first for b in in_place[a.place]
    )


def check_distinct(pieces: Sequence[Piece], split: str, where: str) -> None:
    """Raises ValueError if the pieces of a split, a sum such as `train[:9]+test`, overlap."""
    twice = (count_shared(pieces, pieces) - sum(end - start for _, start, end in pieces)) // 2
    if twice:
        raise ValueError(
            f"Expected each example once in {split!r} of {where}; its parts share {twice:,}, which "
            "would count twice. Name parts that do not overlap, as in 'train[:10%]+train[90%:]'."
        )
