"""What a guardrail's source answered, and what an answer must hold before anything is computed from it.

Apart from the verdicts, because here lives the unevenness of warehouses: names in capitals, decimals as texts, moments
as seconds. What can't be judged is refused with a text that says what is missing; nothing is guessed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from typing import Any

from .statistics import Arm

FALL_OF_COUNTS = 0.01

_SUMS = ("sum", "sum_sq", "den_sum", "den_sum_sq", "num_den_sum")


class NoData(Exception):
    """A source answered, but not with anything that can be judged; the text says what is missing."""


class Absent(NoData):
    """A source answered without a row, or without one for an arm: nobody was counted there, as far as it knows."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a query answered for one stage."""

    arms: Mapping[str, Arm]
    as_of: datetime

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain JSON, for the memory of a rollout."""
        return {"arms": {name: _sums(arm) for name, arm in self.arms.items()}, "as_of": self.as_of.isoformat()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Answer:
        """Return what :meth:`as_dict` wrote."""
        arms = {name: Arm(**sums) for name, sums in data["arms"].items()}
        return cls(arms, datetime.fromisoformat(data["as_of"]))


def answered(
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    *,
    arms: Iterable[str],
    now: datetime,
    needs: Sequence[str] = ("n", "sum"),
) -> Answer:
    """Read the rows of a query: one per arm; rows of other arms are left aside.

    :param columns: their names, in any case.
    :param needs: which numbers there must be.
    :raises Absent: there is no row, or none for an arm.
    :raises NoData: a column is missing, or one holds what can't be.
    """
    named = _named(columns, rows)
    _refuse_missing(named[0], ["variant", *needs, "as_of"])
    wanted = list(arms)
    found: dict[str, Mapping[str, Any]] = {}
    for row in named:
        arm = str(row["variant"])
        if arm in found:
            raise NoData(f"two rows for the arm {arm!r}; the query must return one row per arm (GROUP BY variant)")
        if arm in wanted:
            found[arm] = row
    if missing := [arm for arm in wanted if arm not in found]:
        there = ", ".join(repr(str(row["variant"])) for row in named)
        raise Absent(f"no row for the arm {' and '.join(map(repr, missing))}; there are {there}")
    as_of = min(moment(row["as_of"], "as_of") for row in found.values())
    return Answer({arm: _arm(arm, found[arm], needs) for arm in wanted}, min(as_of, now))


def single(columns: Sequence[str], rows: Sequence[Sequence[Any]], *, now: datetime) -> tuple[float, datetime]:
    """Read the one value of a threshold's query, and until when it is complete: ``as_of``, else now.

    :raises NoData: there is no value, or more than one row.
    """
    named = _named(columns, rows)
    _refuse_missing(named[0], ["value"])
    if len(named) > 1:
        raise NoData(f"{len(named)} rows; the query of a threshold must return one")
    if named[0]["value"] is None:
        raise NoData("value is NULL: nothing happened in this time, or nothing has arrived yet")
    as_of = moment(named[0]["as_of"], "as_of") if "as_of" in named[0] else now
    return _number(named[0]["value"], "value"), min(as_of, now)


def moment(given: Any, what: str) -> datetime:
    """Return a moment as drivers deliver it: a datetime (UTC where it has no zone), ISO text, or seconds since 1970.

    :raises NoData: it is none.
    """
    if isinstance(given, str):
        try:
            given = datetime.fromisoformat(given.strip())
        except ValueError as error:
            raise NoData(f"{what} is {given!r}, which is not an ISO moment such as '2026-11-22T09:00:00Z'") from error
    if isinstance(given, int | float | Decimal) and not isinstance(given, bool):
        try:
            return datetime.fromtimestamp(float(given), UTC)
        except (ValueError, OverflowError, OSError) as error:
            raise NoData(f"{what} is {given!r}; a moment that comes as a number is in seconds since 1970") from error
    if isinstance(given, date) and not isinstance(given, datetime):
        given = datetime(given.year, given.month, given.day)  # noqa: DTZ001 - the zone follows
    if not isinstance(given, datetime):
        raise NoData(
            f"{what} is {given!r}, which is no moment; it is required, and says how far the source is complete"
        )
    return given.astimezone(UTC) if given.tzinfo else given.replace(tzinfo=UTC)


def refuse_fallen(before: Answer, after: Answer, percentage: int) -> None:
    """Refuse an answer for a closed stage whose counts fell: what was counted once can't become uncounted.

    :raises NoData: an arm has over 1 % fewer units than before.
    """
    for name, arm in before.arms.items():
        now = after.arms[name].n if name in after.arms else 0
        if now < arm.n * (1 - FALL_OF_COUNTS):
            raise NoData(
                f"the closed stage of {percentage} % has {now} units in the arm {name!r}, and had {arm.n} before: "
                "rows were lost or are counted differently now"
            )


def _named(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[dict[str, Any]]:
    if not rows:
        raise Absent("the query returned no row")
    names = [str(each).lower() for each in columns]
    return [dict(zip(names, row, strict=True)) for row in rows]


def _refuse_missing(row: Mapping[str, Any], needed: Sequence[str]) -> None:
    if missing := [name for name in needed if name not in row]:
        raise NoData(f"the query returns no column {', '.join(missing)}; it returns {', '.join(row)}")


def _arm(arm: str, row: Mapping[str, Any], needs: Sequence[str]) -> Arm:
    sums = {name: _number(row[name], name) for name in _SUMS if name in needs or row.get(name) is not None}
    try:
        return Arm(**{"n": _number(row["n"], "n"), "sum": 0.0, **sums})  # type: ignore[arg-type]
    except ValueError as error:
        raise NoData(f"arm {arm!r}: {error}") from error


def _sums(arm: Arm) -> dict[str, Any]:
    return {name: value for name in ("n", *_SUMS) if (value := getattr(arm, name)) is not None}


def _number(given: Any, what: str) -> float:
    """Return a number as drivers deliver it; some deliver decimals as texts."""
    try:
        number = float(Decimal(given) if isinstance(given, str) else given)
    except (TypeError, ValueError, InvalidOperation) as error:
        raise NoData(f"{what} is {given!r}, which is no number") from error
    if not math.isfinite(number):
        raise NoData(f"{what} is {given!r}, which is no finite number")
    return number
