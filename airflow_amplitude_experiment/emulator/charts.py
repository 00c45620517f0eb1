"""Saved charts of Amplitude's analytics: ``GET /api/3/chart/{id}/csv``, with its own keys and limits.

A project's API key and secret key open it (Basic), not a management key. What it answers is documented poorly
(H7 in the list of contradictions); the default is what public clients read: JSON whose ``data`` is a CSV text with
a title, a description, and a table with a row for each series and a tab before each text.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import csv
import io
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, timedelta
from email.utils import format_datetime
from math import ceil
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from starlette.responses import Response

from .call import answer, refusal
from .errors import ApiError, not_found
from .store import Json, ProjectKeys, SavedChart, Store

if TYPE_CHECKING:
    from .world import World

FIELDS = frozenset({"id", "projectId", "title", "metric", "series", "conditions", "seconds"})
MINUTES_5, HOUR = 300, 3600


def mount(app: FastAPI, world: World) -> None:
    """Add the paths of the Dashboard REST API that are served here."""
    app.add_api_route("/api/3/chart/{chart_id}/csv", _chart(world), methods=["GET"], response_model=None)
    app.add_api_route("/api/2/events/list", _events(world), methods=["GET"], response_model=None)


class Limits:
    """So many requests at once and so much cost, per project; refuses with 429, which names the limit."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._running: Counter[str] = Counter()
        self.clear()

    def clear(self) -> None:
        """Forget what was spent; requests that are under way stay counted."""
        self._spent: dict[str, deque[tuple[float, int]]] = {}

    def begin(self, project_id: str, cost: int) -> None:
        """Count a request and its cost.

        :raises ApiError: 429 beyond a limit; then nothing is counted.
        """
        options = self._store.options
        if options.charts_at_once is not None and self._running[project_id] >= options.charts_at_once:
            raise ApiError(429, f"Concurrent limit of {options.charts_at_once} requests exceeded.")
        now = self._store.clock().timestamp()
        spent = self._spent.setdefault(project_id, deque())
        while spent and spent[0][0] <= now - HOUR:
            spent.popleft()
        self._refuse_beyond(options.chart_cost_per_5_minutes, cost, spent, now, MINUTES_5)
        self._refuse_beyond(options.chart_cost_per_hour, cost, spent, now, HOUR)
        spent.append((now, cost))
        self._running[project_id] += 1

    def end(self, project_id: str) -> None:
        """Say that a request is over."""
        self._running[project_id] -= 1

    def _refuse_beyond(
        self, limit: int | None, cost: int, spent: deque[tuple[float, int]], now: float, window: int
    ) -> None:
        within = [(moment, one) for moment, one in spent if moment > now - window]
        over = sum(one for _, one in within) + cost - limit if limit is not None else 0
        if over <= 0:
            return
        free = now + window
        for moment, one in within:
            over -= one
            if over <= 0:
                free = moment + window
                break
        text = f"Rate limit of cost {limit} per {window // 60} minutes exceeded by a query of cost {cost}."
        raise ApiError(429, text, headers=wait_headers(self._store, ceil(free - now)))


def wait_headers(store: Store, seconds: int) -> dict[str, str]:
    """Return how a 429 tells to wait so long: as seconds, as a date, or not at all."""
    if store.options.retry_after == "none":
        return {}
    if store.options.retry_after == "seconds":
        return {"Retry-After": str(seconds)}
    moment = store.clock().astimezone(UTC) + timedelta(seconds=seconds)
    return {"Retry-After": format_datetime(moment, usegmt=True)}


# --- charts ------------------------------------------------------------------------------------------


def make(given: Mapping[str, Any], project_id: str) -> SavedChart:
    """Return a chart as a seed describes it.

    :raises ValueError: a field that no chart has, or a value that it can't hold.
    """
    if unknown := sorted(set(given) - FIELDS):
        raise ValueError(f"chart: unknown field {', '.join(unknown)}")
    chart_id = str(given["id"])
    series = {str(label): _points(label, points) for label, points in given.get("series", {}).items()}
    conditions, seconds = given.get("conditions", 1), given.get("seconds", 0)
    if not isinstance(conditions, int) or isinstance(conditions, bool) or conditions < 1:
        raise ValueError(f"chart {chart_id}: conditions is a whole number from 1, not {conditions!r}")
    if not isinstance(seconds, int | float) or isinstance(seconds, bool) or seconds < 0:
        raise ValueError(f"chart {chart_id}: seconds is a number from 0, not {seconds!r}")
    title, metric = str(given.get("title", chart_id)), str(given.get("metric", "Uniques"))
    return SavedChart(chart_id, project_id, title, metric, series, conditions, float(seconds))


def describe(chart: SavedChart) -> Json:
    """Return a chart as a seed describes it."""
    return {
        "id": chart.id,
        "projectId": chart.project_id,
        "title": chart.title,
        "metric": chart.metric,
        "series": {label: [list(point) for point in points] for label, points in chart.series.items()},
        "conditions": chart.conditions,
        "seconds": chart.seconds,
    }


def cost(chart: SavedChart) -> int:
    """Return what asking for a chart costs: its days, times its conditions."""
    return max(1, len({x[:10] for x in _periods(chart)})) * chart.conditions


def _points(label: Any, given: Any) -> list[tuple[str, float | None]]:
    pairs = list(given.items() if isinstance(given, Mapping) else given)
    for pair in pairs:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise ValueError(f"chart: series {label} holds {pair!r} instead of a period and its value")
        if isinstance(pair[1], bool) or not isinstance(pair[1], int | float | None):
            raise ValueError(f"chart: series {label} has the value {pair[1]!r}, which is no number")
    return [(str(x), value) for x, value in pairs]


def _periods(chart: SavedChart) -> list[str]:
    return sorted({x for points in chart.series.values() for x, _ in points})


def _rows(chart: SavedChart) -> list[tuple[str, list[float | None]]]:
    periods = _periods(chart)
    return [(label, [dict(points).get(x) for x in periods]) for label, points in chart.series.items()]


def _as_csv(chart: SavedChart) -> str:
    def text(cell: str) -> str:
        return f"\t{cell}"

    sheet = io.StringIO()
    lines = csv.writer(sheet)
    lines.writerows([[text(chart.title)], [], [text(chart.metric)], []])
    lines.writerow([text("Segment"), *map(text, _periods(chart))])
    lines.writerows([text(label), *values] for label, values in _rows(chart))
    return sheet.getvalue()


def _as_json(chart: SavedChart) -> Json:
    rows = _rows(chart)
    return {
        "series": [[{"value": value} for value in values] for _, values in rows],
        "seriesLabels": [label for label, _ in rows],
        "xValues": _periods(chart),
    }


def _shown(store: Store, chart: SavedChart) -> Response:
    if store.options.chart_body == "csv":
        return Response(_as_csv(chart), media_type="text/csv; charset=utf-8")
    return answer({"data": _as_csv(chart) if store.options.chart_body == "json_csv" else _as_json(chart)})


# --- requests ----------------------------------------------------------------------------------------

_Endpoint = Callable[[Request], Awaitable[Response]]


def _chart(world: World) -> _Endpoint:
    async def endpoint(request: Request) -> Response:
        store, limits = world.store, world.chart_limits
        with store.lock:
            try:
                keys = keys_in(store, request.headers.get("authorization", ""))
                chart = store.charts.get(str(request.path_params["chart_id"]))
                if chart is None or chart.project_id != keys.project_id:
                    raise not_found("There is no such chart in this project.")
                limits.begin(chart.project_id, cost(chart))
            except ApiError as error:
                return refusal(store, error)
        try:
            await asyncio.sleep(chart.seconds)
            with store.lock:
                return _shown(store, chart)
        finally:
            with store.lock:
                limits.end(chart.project_id)

    return endpoint


def _events(world: World) -> _Endpoint:
    async def endpoint(request: Request) -> Response:
        with world.store.lock:
            try:
                keys_in(world.store, request.headers.get("authorization", ""))
                return answer({"data": []})
            except ApiError as error:
                return refusal(world.store, error)

    return endpoint


def basic(keys: ProjectKeys) -> str:
    """Return the two keys as the header of a request carries them."""
    return base64.b64encode(f"{keys.api_key}:{keys.secret_key}".encode()).decode()


def keys_in(store: Store, header: str) -> ProjectKeys:
    """Return the keys that a request carries.

    :raises ApiError: 401 where they are missing or unknown.
    """
    scheme, _, text = header.partition(" ")
    try:
        given = base64.b64decode(text.strip(), validate=True).decode() if scheme.lower() == "basic" else ""
    except (binascii.Error, ValueError):
        given = ""
    for keys in store.project_keys.values():
        if given == f"{keys.api_key}:{keys.secret_key}":
            return keys
    raise ApiError(401, "The API key or the secret key is missing or unknown.")
