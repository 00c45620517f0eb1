"""What the statement of a guardrail is checked for, when it is written and again when its templates are rendered.

Apart from the guardrails, so that those read as what they are: a list of what can be stated. It imports nothing that
a DAG file would pay for.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from .durations import duration

PARAMETERS = ("stage_start", "stage_end", "percentage", "previous_percentage", "window", "key")
"""What is bound to a query, and what a callable may ask for by name (but for the window)."""

LONGEST_NAME = 100

_NAMES = "|".join(PARAMETERS)
_PLACEHOLDER = (  # texts and comments hold none; compiled where it is needed, which an import is not
    r"(?s)'(?:[^']|'')*'|--[^\n]*|/\*.*?\*/"
    rf"|%\((?P<percent>{_NAMES})\)s|(?<![:\w\])\"]):(?P<colon>{_NAMES})\b"
)


def placeholders(sql: str) -> list[re.Match[str]]:
    """Return the placeholders of a query, in order; texts and comments hold none."""
    return [found for found in re.finditer(_PLACEHOLDER, sql) if found.lastgroup]


def name(given: Any) -> str:
    """Check a guardrail's name.

    :raises ValueError: it is not one line of text.
    """
    if not isinstance(given, str) or not given.strip() or len(given) > LONGEST_NAME or not given.isprintable():
        raise ValueError(
            f"name={given!r} of a guardrail must be a text of one line and at most {LONGEST_NAME} characters, such as "
            "'checkout rate'."
        )
    return given


class Checks:
    """The checks of one guardrail. Each returns what was given, read, or raises a refusal that names it."""

    __slots__ = ("_name",)

    def __init__(self, given: Any) -> None:
        self._name = name(given)

    def refusal(self, what: str) -> ValueError:
        """Return the refusal of what was given."""
        return ValueError(f"guardrail {self._name!r}: {what}")

    def text(self, what: str, given: Any) -> str:
        """Check a text that must say something."""
        if not isinstance(given, str) or not given.strip():
            raise self.refusal(f"{what}={given!r} must be a text, and not an empty one.")
        return given

    def word(self, what: str, given: Any, allowed: Sequence[str]) -> Any:
        """Check one of a few words."""
        if given not in allowed:
            raise self.refusal(f"{what}={given!r} is unknown; use {' or '.join(map(repr, allowed))}.")
        return given

    def count(self, what: str, given: Any, *, least: int) -> int:
        """Check a whole number."""
        if not isinstance(given, int) or isinstance(given, bool) or given < least:
            raise self.refusal(f"{what}={given!r} must be a whole number, {least} or more.")
        return given

    def length(self, what: str, given: Any) -> timedelta:
        """Read a duration."""
        return duration(given, f"{what} of guardrail {self._name!r}")

    def sql(self, given: Any) -> str:
        """Check a query: it must ask for one stage. What is rendered later is checked then."""
        sql = self.text("sql", given)
        if sql.strip().endswith(".sql") or "{{" in sql or "{%" in sql:
            return sql
        found = placeholders(sql)
        names = {each[each.lastgroup or 0] for each in found}
        if missing := [each for each in ("stage_start", "stage_end") if each not in names]:
            raise self.refusal(
                f"its query has no placeholder for {' and '.join(missing)}, so it would not answer for one stage. "
                f"Write %({missing[0]})s or :{missing[0]}, whichever the connection's driver takes."
            )
        if len({each.lastgroup for each in found}) > 1:
            raise self.refusal("its query mixes placeholders like %(stage_start)s and :stage_start. Use one style.")
        return sql

    def mde(self, given: Any) -> float | str:
        """Check the smallest harm that matters, as ``statistics.tau`` reads it."""
        number: Any = given
        if isinstance(given, str):
            share, sign, rest = given.strip().partition("%")
            try:
                number = float(share) if sign and not rest else None
            except ValueError:
                number = None
        if isinstance(number, bool) or not isinstance(number, int | float) or not 0 < number < math.inf:
            raise self.refusal(
                f"mde={given!r} must be the smallest harm worth stopping for, above 0: a number in units of the metric "
                "(0.02) or a share of control's mean ('20%')."
            )
        return given  # type: ignore[no-any-return]

    def window(self, given: Any, *, design: str) -> timedelta | None:
        """Read how long outcomes count."""
        if given is None and design == "rollout":
            raise self.refusal(
                "design='rollout' needs window: how long after its first evaluation in the stage a unit's outcomes "
                "count, such as window='1h'. Without it those who switched late would have had less time."
            )
        if given is None:
            return None
        if not (window := self.length("window", given)):
            raise self.refusal(f"window={given!r} is empty. Write a duration such as '1h'.")
        return window

    def limits(self, above: Any, below: Any) -> dict[str, Any]:
        """Check that there is one limit."""
        limits = [each for each in (above, below) if each is not None]
        if len(limits) != 1:
            raise self.refusal("give exactly one limit, above=0.02 or below=0.02.")
        if isinstance(limits[0], bool) or not isinstance(limits[0], int | float) or not math.isfinite(limits[0]):
            raise self.refusal(f"its limit is {limits[0]!r}; it must be a finite number.")
        return {"above": above, "below": below}

    def labels(self, series: Any, ratio: Any) -> dict[str, Any]:
        """Check that there is one series, or a pair of them."""
        if (series is None) == (ratio is None):
            raise self.refusal("give exactly one of series='label' and ratio=('treatment label', 'control label').")
        if ratio is None:
            return {"series": self.text("series", series), "ratio": None}
        pair = tuple(ratio) if isinstance(ratio, list | tuple) else ()
        if len(pair) != 2 or not all(isinstance(each, str) and each.strip() for each in pair):
            raise self.refusal(f"ratio={ratio!r} must be two labels of series, treatment and control.")
        return {"series": None, "ratio": pair}
