"""What a config key is: the type and the range of its values, and what they mean."""

import dataclasses
import operator
from typing import Any

_LARGEST = {int: 2**31 - 1, float: 3.4e38}  # what int32 and float32 hold
_COMPARE = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
_TYPES = {
    bool: "True or False",
    int: "an int",
    float: "a float",
    str: "a string",
    tuple: "two floats, as in (0.3, 1.0)",
}
_ITEMS = {int: "ints, as in (3, 4, 6, 3)", float: "floats, as in (0.3, 0.6, 0.9)"}


@dataclasses.dataclass(frozen=True)
class Key:
    """A row of the table of keys.

    `values` is a range, or the names that a string may be, then perhaps a semicolon and what else
    is asked of a value, which is checked where it is used. A range reads `0 <= x < 1`, `x >= 1` or,
    with a number outside of it that has a meaning of its own, `-1, x >= 1`.
    """

    type: type  # bool, int, float, str, or tuple
    values: str
    meaning: str  # also of the values at the edges, such as 0 = off
    source: str = ""
    is_optional: bool = False  # a config may be without it
    is_free: bool = False  # alters no update by more than rounding: a resumed run may change it
    items: Any = None  # of a tuple: int or float, one or more; None: two floats, ascending
    needed_by: tuple[str, ...] = ()  # families of models that need it, optional as it is

    def range(self) -> str:
        """Returns the part of `values` that `allows` checks."""
        return self.values.partition(";")[0]

    def names(self) -> list[str]:
        """Returns the names that a string may be, none if it may be any."""
        return self.range().split(", ") if self.type is str and self.range() else []

    def allows(self, value: Any) -> bool:
        """True if a value has the type and is within the range. An int may stand for a float."""
        if self.type in (bool, str):
            return isinstance(value, self.type) and (not self.names() or value in self.names())
        if self.type is tuple:
            number = dataclasses.replace(self, type=self.items or float)
            if not isinstance(value, tuple | list) or not all(map(number.allows, value)):
                return False
            return len(value) > 0 if self.items else len(value) == 2 and value[0] <= value[1]
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        if self.type is int and not isinstance(value, int):
            return False
        also, _, range_ = self.range().rpartition(", ")
        if also and value == int(also):
            return True
        return abs(value) <= _LARGEST[self.type] and _is_within(value, range_)  # False for NaN

    def expected(self) -> str:
        """Returns what belongs after "Expected KEY to be" in an error."""
        if names := self.names():
            return f"one of {', '.join(names)}"
        range_ = f", {self.range()}" if self.range() else ""
        type_ = _ITEMS[self.items] if self.items else _TYPES[self.type]
        return f"{type_}{range_} ({self.meaning.replace('`', '')})"


def _is_within(value: float, range_: str) -> bool:
    """`range_` is comparisons of `x` with numbers: `0 <= x < 1`, `x >= 1`."""
    words = range_.split()
    operands = [value if word == "x" else float(word) for word in words[::2]]
    comparisons = zip(operands, words[1::2], operands[1:], strict=False)
    return all(_COMPARE[sign](left, right) for left, sign, right in comparisons)
