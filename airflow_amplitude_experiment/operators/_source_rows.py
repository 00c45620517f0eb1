"""What the row of a source holds: which of its columns is meant, and the id that stands there.

Apart from the sources, whose rows differ only in where they come from. What can't be an id is refused here rather
than made to look like one: a sync would give the variant to somebody else, or to nobody.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from decimal import Decimal
from numbers import Integral
from typing import Any, Literal
from uuid import UUID

What = Literal["user", "cohort"]

ROWS_AT_ONCE = 500

MOST_DIGITS = 100
"""Longer than any database's whole numbers; a Decimal of a few letters can have millions of digits."""

FIRST_INEXACT = 2**53
"""From here on a float stands for several whole numbers."""


class NotAnId(ValueError):
    """A row holds what can't be an id; the text says what instead, without repeating it."""


def as_id(value: Any) -> str:
    """Return the id that a value stands for, exactly; an empty text where it stands for none.

    White space around a text is dropped: Amplitude would take ``" a"`` for somebody else, and nobody means that.
    Otherwise a text stays as it is (``"007"``, ``"1.0"``). A number loses a fraction of zero (7.0 and 7.00 are
    ``"7"``).

    :raises NotAnId: true or false, bytes, a list, …; a number that has a fraction, or is a float too large to be
        exact; a text with half a character.
    """
    if value is None:
        return ""
    if isinstance(value, str):
        return _sendable(value.strip())
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, float | Decimal):
        return _whole(value)
    if isinstance(value, Integral) and not isinstance(value, bool):
        return _whole(Decimal(int(value)))
    raise NotAnId(f"a {type(value).__name__}, but an id must be a text or a whole number")


class ByName:
    """Takes a column by its name from rows that bring their own names, and plain values as they are.

    Some exports leave a null out, so a row without the column is a blank one; but not every row can be.
    """

    def __init__(self, column: str | None, what: What) -> None:
        self._column = column
        self._what = what
        self._missed = self._found = False

    def __call__(self, row: Any) -> Any:
        """Return what stands in the column."""
        if isinstance(row, tuple) and (names := getattr(row, "_fields", None)):
            row = dict(zip(names, row, strict=True))
        if isinstance(row, Mapping):
            return self._of(row)
        if isinstance(row, list | tuple):
            if len(row) != 1:
                raise NotAnId(f"{len(row)} values without names; give only the {self._what} id, or rows as mappings")
            return row[0]
        return row

    def _of(self, row: Mapping[Any, Any]) -> Any:
        if self._column is not None and self._column not in row:
            alike = [name for name in row if str(name).casefold() == self._column.casefold()]
            if len(alike) > 1:
                raise NotAnId(f"columns {' and '.join(map(repr, alike))}; write the one that is meant as it stands")
            self._missed = self._missed or not alike
            self._found = self._found or bool(alike)
            return row[alike[0]] if alike else None
        if self._column is None and len(row) != 1:
            # The names are not repeated: in a mapping by id they'd be ids.
            raise NotAnId(f"{len(row)} columns; name the one with the {self._what} ids: column=…")
        self._found = True
        return row[next(iter(row)) if self._column is None else self._column]

    def must_have_found(self, where: str) -> None:
        """Refuse a column that no row had.

        :raises ValueError: so it was.
        """
        if self._missed and not self._found:
            raise ValueError(f"{where}: no row has a column {self._column!r}")


def position(names: Sequence[str], column: str | None, subject: str, *, what: What, shown: bool = True) -> int:
    """Return where the column stands: by its exact name, else in any case if that means only one."""
    listed = f": {', '.join(names)}" if shown and names else ""
    if column is None:
        if len(names) == 1:
            return 0
        raise ValueError(f"{subject} {len(names)} columns{listed}; name the one with the {what} ids: column=…")
    exact = [at for at, name in enumerate(names) if name == column]
    alike = exact or [at for at, name in enumerate(names) if name.casefold() == column.casefold()]
    if len(alike) != 1:
        problem = "none of them is" if not alike else f"{len(alike)} of them are"
        raise ValueError(f"{subject} {len(names)} columns{listed}; {problem} called {column!r}")
    return alike[0]


def parsed(text: str) -> Any:
    """Return what a JSON text says, its numbers exactly.

    :raises ValueError: it is none.
    """
    try:
        return json.loads(text, parse_float=Decimal)
    except (ArithmeticError, RecursionError):  # an exponent without end, brackets without end
        raise ValueError("not JSON") from None


def _whole(number: float | Decimal) -> str:
    if isinstance(number, float):
        if abs(number) >= FIRST_INEXACT:
            raise NotAnId(f"a float of {FIRST_INEXACT:,} or more, which is not exact; read the column as text")
        number = Decimal(number)
    if number.is_nan():
        return ""
    if not number.is_finite() or number.adjusted() > MOST_DIGITS:
        raise NotAnId(f"a number of more than {MOST_DIGITS} digits; read the column as text")
    if number != int(number):
        raise NotAnId("a number with a fraction, but an id must be a text or a whole number")
    return str(int(number))


def _sendable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise NotAnId("a text with half a character (a lone surrogate), which can't be sent") from None
    return text
