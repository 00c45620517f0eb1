"""What is asked of the Dashboard REST API: a saved chart, and the cheapest question that shows whether keys fit."""

from __future__ import annotations

import json

from airflow_amplitude_experiment.api._call import Endpoint
from airflow_amplitude_experiment.api._checks import Check

from ._analytics_client import Question
from ._analytics_reading import Unreadable
from ._chart import Series, checked_chart_id, read

_CHART_ID = Check("a chart's id", checked_chart_id)
_CHART = Endpoint("charts.csv", "GET", "/api/3/chart/{chart_id}/csv", "anything", fields={"chart_id": _CHART_ID})
_EVENTS = Endpoint("events.list", "GET", "/api/2/events/list", "anything")


def chart(chart_id: str) -> Question[Series]:
    """Ask what a saved chart shows; the time zone of its days is not in the answer."""
    return Question(_CHART, read, {"chart_id": chart_id})


def knock() -> Question[None]:
    """Ask for the list of events, which every key of a project opens."""
    return Question(_EVENTS, _any_json)


def _any_json(content: bytes) -> None:
    try:
        json.loads(content)
    except (ValueError, RecursionError):
        raise Unreadable(f"{len(content)} bytes that are not JSON, or cut off") from None
