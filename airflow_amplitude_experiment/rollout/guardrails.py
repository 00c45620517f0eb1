"""What watches a rollout: the guardrails as a DAG file states them, checked as they are made.

Apart from what they compute (``verdicts``) and from who asks the warehouse (``operators/_look``), because a DAG file
is read every few seconds: nothing is imported here that costs anything, and what reaches a task is plain JSON.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, fields
from datetime import timedelta
from typing import Any, ClassVar, Literal

from .durations import duration
from .statistics import tau

Harm = Literal["decrease", "increase", "either"]
Design = Literal["variants", "rollout"]

PARAMETERS = ("stage_start", "stage_end", "percentage", "previous_percentage", "window", "key")
"""What is bound to a query, and what a callable may ask for by name (but for the window)."""

ARMS_OF_A_ROLLOUT = ("on", "off")
"""The arms of ``design="rollout"``: units below the stage's percentage, and those at or above it."""

LONGEST_NAME = 100

_PLACEHOLDER = re.compile(
    r"'(?:[^']|'')*'|--[^\n]*|/\*.*?\*/"  # texts and comments hold none
    rf"|%\((?P<percent>{'|'.join(PARAMETERS)})\)s|(?<![:\w\])\"]):(?P<colon>{'|'.join(PARAMETERS)})\b",
    re.DOTALL,
)


class _Guardrail:
    """What all definitions share: they are checked as they are made, and become plain JSON."""

    __slots__ = ()

    type: ClassVar[str]
    name: str

    def as_dict(self) -> dict[str, Any]:
        """Return the guardrail as plain JSON; durations are in seconds."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}  # type: ignore[arg-type]
        return {"type": self.type, **{name: _plain(value) for name, value in values.items()}}

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def _refuse(self, what: str) -> ValueError:
        return ValueError(f"guardrail {self.name!r}: {what}")


@dataclass(frozen=True, slots=True)
class SqlGuardrail(_Guardrail):
    """Compare a metric of each treatment arm with control, by a query that returns sums per arm for one stage.

    The test is sequential (always-valid): it may be looked at as often as one likes. Its definition, and queries for
    two warehouses, are in ``docs/guardrails.md``.

    :param name: as it stands in logs, records and approvals.
    :param sql: one row per arm: ``variant``, ``n``, ``sum``, ``as_of``, and ``sum_sq`` unless every unit is 0 or 1; for
        ratio metrics ``den_sum``, ``den_sum_sq``, ``num_den_sum``. Placeholders as the connection's driver takes them,
        ``%(stage_start)s`` or ``:stage_start``: ``stage_start``, ``stage_end`` (ISO texts in UTC), ``percentage``,
        ``previous_percentage``, ``window`` (seconds), ``key``. May be the path of a ``.sql`` file.
    :param conn_id: of an Airflow connection with a SQL hook.
    :param harm: the direction that is bad. There is no default: a wrong guess rolls back a good release.
    :param mde: the smallest harm worth stopping for: in units of the metric (``0.02``), or relative to control
        (``"20%"``).
    :param design: ``"variants"`` compares variants; ``"rollout"``, for a flag with one variant, compares units below
        the percentage (arm ``on``) with those at or above it that reached the same code (``off``).
    :param control: the control variant of ``design="variants"``.
    :param window: how long after its first exposure in the stage a unit's outcomes count; needed by
        ``design="rollout"``.
    :param pass_when: ``"no_breach"`` passes where no harm was shown, ``"harm_ruled_out"`` where one of ``mde`` is ruled
        out.
    :param if_inconclusive: ``"advance"`` lets the rollout go on at the look after the bake although there were too few
        units or harm was not ruled out; never under a sample ratio alarm.
    :param settle: how long after the write units are not counted yet, because not every server has the new percentage;
        about two hours where cohorts decide who is in.
    :param errors_tolerated: how often in a row the query may fail before the verdict is ``no_data``.
    """

    type: ClassVar[str] = "sql"

    name: str
    _: KW_ONLY
    sql: str
    conn_id: str
    harm: Harm
    mde: float | str
    design: Design = "variants"
    control: str = "control"
    window: timedelta | str | float | None = None
    pass_when: Literal["no_breach", "harm_ruled_out"] = "no_breach"
    if_inconclusive: Literal["hold", "advance"] = "hold"
    settle: timedelta | str | float = "5m"
    errors_tolerated: int = 4

    def __post_init__(self) -> None:
        _check_name(self.name)
        _check_sql(self)
        _check_word(self, "harm", ("decrease", "increase", "either"))
        _check_word(self, "design", ("variants", "rollout"))
        _check_word(self, "pass_when", ("no_breach", "harm_ruled_out"))
        _check_word(self, "if_inconclusive", ("hold", "advance"))
        _check_text(self, "control")
        _check_mde(self)
        _check_window(self)
        _check_settle(self)
        _check_count(self, "errors_tolerated", least=0)

    @property
    def directions(self) -> tuple[Literal["decrease", "increase"], ...]:
        """The directions of harm that are tested, each a comparison of its own."""
        return ("decrease", "increase") if self.harm == "either" else (self.harm,)

    def arms(self, weights: Mapping[str, float]) -> tuple[str, ...]:
        """Return control, then each treatment arm."""
        if self.design == "rollout":
            return ARMS_OF_A_ROLLOUT[::-1]
        return (self.control, *(arm for arm, weight in weights.items() if weight > 0 and arm != self.control))


@dataclass(frozen=True, slots=True)
class SampleRatioGuardrail(_Guardrail):
    """Check that units reach the arms in the configured shares; where they don't, no comparison means anything.

    An alarm holds the rollout, for good, and turns every metric's ``pass`` into ``inconclusive``. Its error rate of
    1 % is its own, beside the rollout's ``alpha``.

    :param sql: one row per arm: ``variant``, ``n``, ``as_of``. Count units, not exposures, and leave out individual
        inclusions. Placeholders as in :class:`SqlGuardrail`.
    :param conn_id, design, settle, errors_tolerated: as in :class:`SqlGuardrail`.
    """

    type: ClassVar[str] = "sample_ratio"

    name: str = "sample ratio"
    _: KW_ONLY
    sql: str
    conn_id: str
    design: Design = "variants"
    settle: timedelta | str | float = "5m"
    errors_tolerated: int = 4

    def __post_init__(self) -> None:
        _check_name(self.name)
        _check_sql(self)
        _check_word(self, "design", ("variants", "rollout"))
        _check_settle(self)
        _check_count(self, "errors_tolerated", least=0)

    def arms(self, weights: Mapping[str, float]) -> tuple[str, ...]:
        """Return the arms whose units are counted."""
        if self.design == "rollout":
            return ARMS_OF_A_ROLLOUT
        return tuple(arm for arm, weight in weights.items() if weight > 0)


@dataclass(frozen=True, slots=True)
class ThresholdGuardrail(_Guardrail):
    """Stop where one value (an error rate, a latency) is beyond a limit in several looks in a row.

    No test and no control: how often it stops a harmless rollout is not known to anybody.

    :param sql: returns one row with ``value``, and ``as_of`` where the source lags behind. ``stage_start`` and
        ``stage_end`` bind the time since the last value, so that no two looks count the same events.
    :param above, below: the limit, exactly one of both; a value right at it is still good.
    :param for_looks: how many looks in a row.
    :param conn_id, settle, errors_tolerated: as in :class:`SqlGuardrail`.
    """

    type: ClassVar[str] = "threshold"

    name: str
    _: KW_ONLY
    sql: str
    conn_id: str
    above: float | None = None
    below: float | None = None
    for_looks: int = 3
    settle: timedelta | str | float = "5m"
    errors_tolerated: int = 4

    def __post_init__(self) -> None:
        _check_name(self.name)
        _check_sql(self)
        _check_limit(self)
        _check_count(self, "for_looks", least=1)
        _check_settle(self)
        _check_count(self, "errors_tolerated", least=0)


@dataclass(frozen=True, slots=True)
class ChartGuardrail(_Guardrail):
    """Stop where the newest complete value of an Amplitude chart is beyond a limit, several times in a row.

    A chart tells no variance, so this is a limit and no test. A value counts once, and not if it is of a day before the
    rollout began: a chart by day is for stages of two days and more.

    :param chart_id: as in the chart's address.
    :param above, below: the limit, exactly one of both; a value right at it is still good.
    :param series: the label of one series.
    :param ratio: the labels of two series, treatment and control; the value is the first divided by the second.
    :param for_looks: how many values in a row.
    :param conn_id: of an Airflow connection of type ``amplitude_analytics``.
    :param errors_tolerated: how often in a row reading may fail before the verdict is ``no_data``; waiting for the
        quota is no failure.
    """

    type: ClassVar[str] = "chart"

    name: str
    _: KW_ONLY
    chart_id: str
    above: float | None = None
    below: float | None = None
    series: str | None = None
    ratio: Sequence[str] | None = None
    for_looks: int = 3
    conn_id: str = "amplitude_analytics_default"
    errors_tolerated: int = 4

    def __post_init__(self) -> None:
        _check_name(self.name)
        _check_text(self, "chart_id")
        _check_text(self, "conn_id")
        _check_limit(self)
        _check_count(self, "for_looks", least=1)
        _check_count(self, "errors_tolerated", least=0)
        if (self.series is None) == (self.ratio is None):
            raise self._refuse("give exactly one of series='label' and ratio=('treatment label', 'control label').")
        if self.series is not None:
            _check_text(self, "series")
        if self.ratio is not None:
            pair = self.ratio if isinstance(self.ratio, list | tuple) else ()
            if len(pair) != 2 or not all(isinstance(each, str) and each.strip() for each in pair):
                raise self._refuse(f"ratio={self.ratio!r} must be two labels of series, treatment and control.")
            self._set("ratio", tuple(pair))

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels of the series that are read."""
        return (self.series,) if self.series is not None else tuple(self.ratio or ())


Definition = SqlGuardrail | SampleRatioGuardrail | ThresholdGuardrail | ChartGuardrail
Guardrail = Definition | Callable[..., str]

DEFINITIONS: tuple[type[Definition], ...] = (SqlGuardrail, SampleRatioGuardrail, ThresholdGuardrail, ChartGuardrail)
CALLABLE = "callable"


def described(guardrails: Iterable[Guardrail]) -> list[dict[str, Any]]:
    """Return guardrails as they reach a task: plain JSON, a Python callable by its name.

    :raises ValueError: something that is no guardrail, a callable without a name of its own, a name given twice.
    """
    found = [_described(each) for each in guardrails]
    names = [each["name"] for each in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(
            f"two guardrails are named {', '.join(map(repr, twice))}. What a guardrail remembers from look to look is "
            "kept under its name: give each another one."
        )
    return found


def callables(guardrails: Iterable[Guardrail]) -> dict[str, Callable[..., Any]]:
    """Return the Python callables among guardrails, by name."""
    return {_name_of(each): each for each in guardrails if callable(each)}


def defined(guardrail: Mapping[str, Any]) -> Definition:
    """Return the definition that ``as_dict`` wrote, checked again, because templates are rendered by now.

    :raises ValueError: it is none, or not as it must be.
    """
    made = next((each for each in DEFINITIONS if each.type == guardrail.get("type")), None)
    if made is None:
        raise ValueError(f"guardrail {guardrail.get('name')!r} is of the unknown type {guardrail.get('type')!r}.")
    return made(**{name: value for name, value in guardrail.items() if name != "type"})


def comparisons(guardrails: Iterable[Mapping[str, Any]], arms: Sequence[str]) -> int:
    """Return how many comparisons share a rollout's alpha: metrics × treatment arms, twice for ``harm="either"``.

    :param guardrails: of the whole rollout; one that watches several stages counts once.
    :param arms: the variants that are served.
    :return: at least 1, so that alpha can be divided by it.
    """
    found = 0
    whole = list(guardrails)
    for place, each in enumerate(whole):
        if each["type"] == SqlGuardrail.type and each not in whole[:place]:
            treatments = 1 if each["design"] == "rollout" else sum(arm != each["control"] for arm in arms)
            found += treatments * (2 if each["harm"] == "either" else 1)
    return max(1, found)


def refuse_design(guardrails: Iterable[Mapping[str, Any]], weights: Mapping[str, float]) -> list[str]:
    """Say which guardrails can't be answered for an object that serves these variants, and the way out.

    :param weights: of each variant that is served, its rollout weight.
    :return: one finding for each such guardrail; empty where all is well.
    """
    served = [variant for variant, weight in weights.items() if weight > 0]
    return [
        f"guardrail {each['name']!r} {obstacle}"
        for each in guardrails
        if each.get("design") == "variants" and (obstacle := _obstacle(each, served))
    ]


def placeholders(sql: str) -> list[re.Match[str]]:
    """Return the placeholders of a query, in order; texts and comments hold none."""
    return [found for found in _PLACEHOLDER.finditer(sql) if found.lastgroup]


def _obstacle(guardrail: Mapping[str, Any], served: Sequence[str]) -> str:
    if len(served) < 2:
        only = f"one variant, {served[0]!r}," if served else "no variant"
        return (
            f"compares variants, but {only} is served, so there is nobody to compare with. State design='rollout' and "
            "a query over your own log of evaluations, those that were off included; or serve two variants 1:1, "
            "'control' and the new one, and ramp that."
        )
    if guardrail["type"] == SqlGuardrail.type and guardrail["control"] not in served:
        return f"compares with control={guardrail['control']!r}, which is not served; served are {', '.join(served)}."
    return ""


def _described(guardrail: Any) -> dict[str, Any]:
    if isinstance(guardrail, DEFINITIONS):
        return guardrail.as_dict()
    return {"type": CALLABLE, "name": _name_of(guardrail)}


def _name_of(guardrail: Any) -> str:
    if not callable(guardrail) or isinstance(guardrail, type):
        names = ", ".join(each.__name__ for each in DEFINITIONS)
        raise ValueError(f"{guardrail!r} is not a guardrail. Use {names}, or a function that returns a verdict.")
    name = getattr(guardrail, "__name__", "<unnamed>")
    if name.startswith("<"):
        raise ValueError(
            f"a guardrail is a callable without a name of its own ({name}). Define it as a function, so that logs and "
            "records can name it and it is the same at every parse."
        )
    return str(name)


def _plain(value: Any) -> Any:
    if isinstance(value, timedelta):
        return value.total_seconds()
    return list(value) if isinstance(value, tuple) else value


def _check_name(name: Any) -> None:
    if not isinstance(name, str) or not name.strip() or len(name) > LONGEST_NAME or not name.isprintable():
        raise ValueError(
            f"name={name!r} of a guardrail must be a text of one line and at most {LONGEST_NAME} characters, such as "
            "'checkout rate'."
        )


def _check_text(guardrail: Definition, name: str) -> None:
    value = getattr(guardrail, name)
    if not isinstance(value, str) or not value.strip():
        raise guardrail._refuse(f"{name}={value!r} must be a text, and not an empty one.")


def _check_word(guardrail: Definition, name: str, allowed: Sequence[str]) -> None:
    if (value := getattr(guardrail, name)) not in allowed:
        raise guardrail._refuse(f"{name}={value!r} is unknown; use {' or '.join(map(repr, allowed))}.")


def _check_count(guardrail: Definition, name: str, *, least: int) -> None:
    value = getattr(guardrail, name)
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise guardrail._refuse(f"{name}={value!r} must be a whole number, {least} or more.")


def _check_sql(guardrail: SqlGuardrail | SampleRatioGuardrail | ThresholdGuardrail) -> None:
    _check_text(guardrail, "conn_id")
    _check_text(guardrail, "sql")
    sql = guardrail.sql
    if sql.strip().endswith(".sql") or "{{" in sql or "{%" in sql:
        return  # checked once it is rendered
    styles = {str(each.lastgroup) for each in placeholders(sql)}
    names = {each.group(each.lastgroup or 0) for each in placeholders(sql)}
    if missing := [name for name in ("stage_start", "stage_end") if name not in names]:
        raise guardrail._refuse(
            f"its query has no placeholder for {' and '.join(missing)}, so it would not answer for one stage. Write "
            f"%({missing[0]})s or :{missing[0]}, whichever the connection's driver takes."
        )
    if len(styles) > 1:
        raise guardrail._refuse("its query mixes placeholders like %(stage_start)s and :stage_start. Use one style.")


def _check_mde(guardrail: SqlGuardrail) -> None:
    try:
        tau(guardrail.mde, 1.0)
    except ValueError as error:
        raise guardrail._refuse(str(error)) from error


def _check_settle(guardrail: SqlGuardrail | SampleRatioGuardrail | ThresholdGuardrail) -> None:
    guardrail._set("settle", duration(guardrail.settle, f"settle of guardrail {guardrail.name!r}"))


def _check_window(guardrail: SqlGuardrail) -> None:
    if guardrail.window is None:
        if guardrail.design == "rollout":
            raise guardrail._refuse(
                "design='rollout' needs window: how long after its first evaluation in the stage a unit's outcomes "
                "count, such as window='1h'. Without it those who switched late would have had less time."
            )
        return
    window = duration(guardrail.window, f"window of guardrail {guardrail.name!r}")
    if not window:
        raise guardrail._refuse(f"window={guardrail.window!r} is empty. Write a duration such as '1h'.")
    guardrail._set("window", window)


def _check_limit(guardrail: ThresholdGuardrail | ChartGuardrail) -> None:
    limits = [each for each in (guardrail.above, guardrail.below) if each is not None]
    if len(limits) != 1:
        raise guardrail._refuse("give exactly one limit, above=0.02 or below=0.02.")
    limit = limits[0]
    if isinstance(limit, bool) or not isinstance(limit, int | float) or not math.isfinite(limit):
        raise guardrail._refuse(f"its limit is {limit!r}; it must be a finite number.")
