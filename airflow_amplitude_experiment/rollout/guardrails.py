"""What watches a rollout: the guardrails as a DAG file states them, checked as they are made.

Apart from what they compute (``verdicts``) and from who asks the warehouse (``operators/_look``), because a DAG file
is read every few seconds: nothing is imported here that costs anything, and what reaches a task is plain JSON.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any, ClassVar, Literal

from ._stated import Checks
from ._value import Value

Harm = Literal["decrease", "increase", "either"]
Design = Literal["variants", "rollout"]

ARMS_OF_A_ROLLOUT = ("on", "off")
"""The arms of ``design="rollout"``: units below the stage's percentage, and those at or above it."""

_HARMS, _DESIGNS = ("decrease", "increase", "either"), ("variants", "rollout")


class _Guardrail(Value):
    """What all definitions share: they never change, and become plain JSON."""

    __slots__ = ()

    type: ClassVar[str]
    name: str

    def as_dict(self) -> dict[str, Any]:
        """Return the guardrail as plain JSON; durations are in seconds."""
        return {"type": self.type, **{name: _plain(value) for name, value in self._fields().items()}}


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

    __slots__ = (
        "conn_id",
        "control",
        "design",
        "errors_tolerated",
        "harm",
        "if_inconclusive",
        "mde",
        "name",
        "pass_when",
        "settle",
        "sql",
        "window",
    )

    type = "sql"
    sql: str
    conn_id: str
    harm: Harm
    mde: float | str
    design: Design
    control: str
    window: timedelta | None
    pass_when: Literal["no_breach", "harm_ruled_out"]
    if_inconclusive: Literal["hold", "advance"]
    settle: timedelta
    errors_tolerated: int

    def __init__(
        self,
        name: str,
        *,
        sql: str,
        conn_id: str,
        harm: Harm,
        mde: float | str,
        design: Design = "variants",
        control: str = "control",
        window: timedelta | str | float | None = None,
        pass_when: Literal["no_breach", "harm_ruled_out"] = "no_breach",
        if_inconclusive: Literal["hold", "advance"] = "hold",
        settle: timedelta | str | float = "5m",
        errors_tolerated: int = 4,
    ) -> None:
        check = Checks(name)
        self._set(
            name=name,
            sql=check.sql(sql),
            conn_id=check.text("conn_id", conn_id),
            harm=check.word("harm", harm, _HARMS),
            mde=check.mde(mde),
            design=check.word("design", design, _DESIGNS),
            control=check.text("control", control),
            window=check.window(window, design=design),
            pass_when=check.word("pass_when", pass_when, ("no_breach", "harm_ruled_out")),
            if_inconclusive=check.word("if_inconclusive", if_inconclusive, ("hold", "advance")),
            settle=check.length("settle", settle),
            errors_tolerated=check.count("errors_tolerated", errors_tolerated, least=0),
        )

    @property
    def directions(self) -> tuple[Literal["decrease", "increase"], ...]:
        """The directions of harm that are tested, each a comparison of its own."""
        return ("decrease", "increase") if self.harm == "either" else (self.harm,)

    def arms(self, weights: Mapping[str, float]) -> tuple[str, ...]:
        """Return control, then each treatment arm."""
        if self.design == "rollout":
            return ARMS_OF_A_ROLLOUT[::-1]
        return (self.control, *(arm for arm, weight in weights.items() if weight > 0 and arm != self.control))


class SampleRatioGuardrail(_Guardrail):
    """Check that units reach the arms in the configured shares; where they don't, no comparison means anything.

    An alarm holds the rollout, for good, and turns every metric's ``pass`` into ``inconclusive``. Its error rate of
    1 % is its own, beside the rollout's ``alpha``.

    :param sql: one row per arm: ``variant``, ``n``, ``as_of``. Count units, not exposures, and leave out individual
        inclusions. Placeholders as in :class:`SqlGuardrail`.
    :param conn_id, design, settle, errors_tolerated: as in :class:`SqlGuardrail`.
    """

    __slots__ = ("conn_id", "design", "errors_tolerated", "name", "settle", "sql")

    type = "sample_ratio"
    sql: str
    conn_id: str
    design: Design
    settle: timedelta
    errors_tolerated: int

    def __init__(
        self,
        name: str = "sample ratio",
        *,
        sql: str,
        conn_id: str,
        design: Design = "variants",
        settle: timedelta | str | float = "5m",
        errors_tolerated: int = 4,
    ) -> None:
        check = Checks(name)
        self._set(
            name=name,
            sql=check.sql(sql),
            conn_id=check.text("conn_id", conn_id),
            design=check.word("design", design, _DESIGNS),
            settle=check.length("settle", settle),
            errors_tolerated=check.count("errors_tolerated", errors_tolerated, least=0),
        )

    def arms(self, weights: Mapping[str, float]) -> tuple[str, ...]:
        """Return the arms whose units are counted."""
        if self.design == "rollout":
            return ARMS_OF_A_ROLLOUT
        return tuple(arm for arm, weight in weights.items() if weight > 0)


class ThresholdGuardrail(_Guardrail):
    """Stop where one value (an error rate, a latency) is beyond a limit in several looks in a row.

    No test and no control: how often it stops a harmless rollout is not known to anybody.

    :param sql: returns one row with ``value``, and ``as_of`` where the source lags behind. ``stage_start`` and
        ``stage_end`` bind the time since the last value, so that no two looks count the same events.
    :param above, below: the limit, exactly one of both; a value right at it is still good.
    :param for_looks: how many looks in a row.
    :param conn_id, settle, errors_tolerated: as in :class:`SqlGuardrail`.
    """

    __slots__ = ("above", "below", "conn_id", "errors_tolerated", "for_looks", "name", "settle", "sql")

    type = "threshold"
    sql: str
    conn_id: str
    above: float | None
    below: float | None
    for_looks: int
    settle: timedelta
    errors_tolerated: int

    def __init__(
        self,
        name: str,
        *,
        sql: str,
        conn_id: str,
        above: float | None = None,
        below: float | None = None,
        for_looks: int = 3,
        settle: timedelta | str | float = "5m",
        errors_tolerated: int = 4,
    ) -> None:
        check = Checks(name)
        self._set(
            name=name,
            sql=check.sql(sql),
            conn_id=check.text("conn_id", conn_id),
            **check.limits(above, below),
            for_looks=check.count("for_looks", for_looks, least=1),
            settle=check.length("settle", settle),
            errors_tolerated=check.count("errors_tolerated", errors_tolerated, least=0),
        )


class ChartGuardrail(_Guardrail):
    """Stop where the newest complete value of an Amplitude chart is beyond a limit, several times in a row.

    A chart tells no variance, so this is a limit and no test. A value counts once, and not if it is of a day before the
    running stage began: a chart by day is for stages of two days and more.

    :param chart_id: as in the chart's address.
    :param above, below: the limit, exactly one of both; a value right at it is still good.
    :param series: the label of one series.
    :param ratio: the labels of two series, treatment and control; the value is the first divided by the second.
    :param for_looks: how many values in a row.
    :param conn_id: of an Airflow connection of type ``amplitude_analytics``.
    :param errors_tolerated: how often in a row reading may fail before the verdict is ``no_data``; waiting for the
        quota is no failure.
    """

    __slots__ = ("above", "below", "chart_id", "conn_id", "errors_tolerated", "for_looks", "name", "ratio", "series")

    type = "chart"
    chart_id: str
    above: float | None
    below: float | None
    series: str | None
    ratio: tuple[str, str] | None
    for_looks: int
    conn_id: str
    errors_tolerated: int

    def __init__(
        self,
        name: str,
        *,
        chart_id: str,
        above: float | None = None,
        below: float | None = None,
        series: str | None = None,
        ratio: Sequence[str] | None = None,
        for_looks: int = 3,
        conn_id: str = "amplitude_analytics_default",
        errors_tolerated: int = 4,
    ) -> None:
        check = Checks(name)
        self._set(
            name=name,
            chart_id=check.text("chart_id", chart_id),
            **check.limits(above, below),
            **check.labels(series, ratio),
            for_looks=check.count("for_looks", for_looks, least=1),
            conn_id=check.text("conn_id", conn_id),
            errors_tolerated=check.count("errors_tolerated", errors_tolerated, least=0),
        )

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
