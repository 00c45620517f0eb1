"""What is asked for with an export of a cohort, checked. Light: a DAG file that names the operator checks it too."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, NamedTuple

from airflow_amplitude_experiment.rollout.durations import duration, in_words

from ._base import given

MOST_IN_XCOM = 100_000


class Order(NamedTuple):
    """What is asked for, checked."""

    cohort_id: str
    props: bool | list[str]
    path: str | None
    path_conn_id: str | None
    column: str
    max_in_xcom: int


class Asked(NamedTuple):
    """An export that Amplitude was asked for, and when (ISO 8601)."""

    request_id: str
    requested_at: str


def ordered(*, cohort_id: Any, path: Any, path_conn_id: Any, props: Any, column: Any, max_in_xcom: Any) -> Order:
    """Return what is asked for, checked; for the arguments see :class:`.AmplitudeExportCohortOperator`.

    :raises ValueError: what was given, and what is allowed.
    """
    from airflow_amplitude_experiment.api import _checks as check
    from airflow_amplitude_experiment.hooks._analytics_reading import checked_id

    if path is not None and given(path) is None:
        raise ValueError(
            f"path is {path!r}, which names no file; was it left out of the form or the conf? Only a task without "
            "path=… returns the ids themselves"
        )
    path_conn_id = given(path_conn_id)
    if path is not None and not str(path).strip().endswith(".csv"):
        raise ValueError(
            f"path is {path!r}, but must end in .csv: CSV is what Amplitude sends, and readers go by the ending"
        )
    if path is None and path_conn_id is not None:
        raise ValueError("path_conn_id is given without path; it is the connection that path is written with")
    return Order(
        cohort_id=checked_id("cohort", cohort_id),
        props=_props(props),
        path=None if path is None else str(path).strip(),
        path_conn_id=path_conn_id,
        column=check.name("column", given(column)),
        max_in_xcom=_most(max_in_xcom),
    )


def at_least(what: str, value: Any, least: timedelta) -> timedelta:
    """Return a length of time.

    :raises ValueError: none, or too short.
    """
    length = duration(value, what)
    if length < least:
        raise ValueError(f"{what} is {in_words(length)}, but must be at least {in_words(least)}")
    return length


def _props(value: Any) -> bool | list[str]:
    """Return which properties are wanted.

    :raises ValueError: neither true nor false nor names.
    """
    from airflow_amplitude_experiment.api import _checks as check

    if isinstance(value, list | tuple):
        return [check.name("props", given(each)) for each in value]
    try:
        wanted: bool = check.boolean("props", given(value) or False)
    except ValueError:
        raise ValueError(f"props is {check.short(value)}, but must be true, false or a list of names") from None
    return wanted


def _most(value: Any) -> int:
    """Return how many ids may go into XCom.

    :raises ValueError: no whole number of 1 to 100,000.
    """
    from airflow_amplitude_experiment.api import _checks as check

    limit = check.Check(f"a whole number from 1 to {MOST_IN_XCOM}", check.whole)
    number: int = limit("max_in_xcom", value)
    if not 1 <= number <= MOST_IN_XCOM:
        raise ValueError(f"max_in_xcom is {number}, but must be {limit.expected}; more go to a file, path=…")
    return number
