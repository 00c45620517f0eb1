"""The numbers of a saved chart, and how they are read from what Amplitude answers.

Pure: no request is made here. It is apart because a wrong reading does harm quietly: a day that isn't over yet, taken
for a whole one, looks like a collapse, and a chart that ended a month ago looks healthy for ever.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Any

from ._analytics_reading import Unreadable as Unreadable
from ._analytics_reading import checked_id, short

Series = dict[str, list[tuple[str, float | None]]]

LAST_ZONE = "Etc/GMT+12"
"""The time zone in which a day ends last (UTC−12): what is over there is over in every project."""
STALE_AFTER = 3
"""Periods from the beginning of the newest complete one after which it says nothing of the present any more."""


class UnknownSeries(ValueError):
    """The chart has no series of this name. Rows of a group-by appear once there is data for them."""


@dataclass(frozen=True, slots=True)
class Chart:
    """What a saved chart shows.

    :param chart_id: its id.
    :param series: of each series, by its label, the periods and their values; ``None`` where a cell is empty.
    :param timezone: the project's time zone, in which the periods are written.
    """

    chart_id: str
    series: Series
    timezone: str = "UTC"

    def last(self, label: str, now: datetime) -> float | None:
        """Return the value of the newest complete period; see :meth:`newest`."""
        found = self.newest(label, now)
        return found[1] if found else None

    def newest(self, label: str, now: datetime) -> tuple[str, float | None] | None:
        """Return the newest complete period of a series, and its value.

        A period (a day, an hour, a week: as far as the chart's periods are apart) is complete when it is over in
        the chart's time zone; the current one is dropped. ``None`` where no period is complete, or where the newest
        complete one is so old that at least one more should have followed: the chart ends in the past.

        :param now: an aware moment.
        :raises UnknownSeries: names those there are.
        :raises ValueError: the chart is not one over time, or shows a single period.
        """
        if now.tzinfo is None:
            raise ValueError(f"now is {now.isoformat()}, a moment without a time zone; give an aware datetime")
        if label not in self.series:
            there = ", ".join(map(repr, self.series)) or "none yet"
            raise UnknownSeries(f"Chart {self.chart_id} has no series {label!r}; it has {there}")
        points = sorted(((self._begin(x), x, value) for x, value in self.series[label]), key=lambda point: point[0])
        if len(points) < 2:
            raise ValueError(
                f"Chart {self.chart_id} shows {len(points)} period of {label!r}, which doesn't tell how long a period "
                "is; let it show at least two"
            )
        length = max(later[0] - earlier[0] for earlier, later in pairwise(points))
        clock = now.astimezone(_zone(self.timezone)).replace(tzinfo=None)
        complete = [point for point in points if point[0] + length <= clock]
        if not complete or complete[-1][0] + STALE_AFTER * length <= clock:
            return None
        return complete[-1][1:]

    def _begin(self, x: str) -> datetime:
        """Return when a period begins, on the clocks of the chart's time zone."""
        moment = _moment(x)
        if moment is None:
            raise ValueError(
                f"Chart {self.chart_id} is not one over time: {x!r} is no date. Choose a chart with a point for each "
                "day or hour"
            )
        return moment.astimezone(_zone(self.timezone)).replace(tzinfo=None) if moment.tzinfo else moment


def checked_chart_id(given: Any) -> str:
    """Return a chart's id as it is sent.

    :raises ValueError: it can't be one; a chart's address is told apart from its id.
    """
    return checked_id("chart", given)


def checked_zone(name: str) -> str:
    """Return the name of a time zone that this machine knows.

    :raises ValueError: it doesn't.
    """
    _zone(name)
    return name


def read(content: bytes) -> Series:
    """Return the series of an answer: a CSV table, alone or as ``data`` of a JSON object, or series in JSON.

    What the endpoint answers is not documented (contradiction H7), so each of the known forms is read.

    :raises Unreadable: it holds no chart, or an ambiguous one.
    """
    try:
        text = content.decode("utf-8-sig").strip()
        data = json.loads(text).get("data") if text.startswith("{") else text
    except (ValueError, RecursionError):
        raise Unreadable(f"{len(content)} bytes that are neither CSV nor JSON, or cut off") from None
    if isinstance(data, str):
        return _named(_table(data))
    if isinstance(data, dict) and all(isinstance(data.get(name), list) for name in ("series", "xValues")):
        return _named(_json_series(data))
    raise Unreadable("JSON without the data of a chart")


_Rows = list[tuple[str, list[tuple[str, float | None]]]]


def _named(rows: _Rows) -> Series:
    found: Series = {}
    for label, points in rows:
        if label in found:
            raise Unreadable(f"two series of the name {label!r}; give them different names in Amplitude")
        found[label] = points
    return found


def _table(text: str) -> _Rows:
    """Read a CSV text: a title and descriptions, then the table, which is the last block between blank lines."""
    try:
        rows = [[cell.strip() for cell in row] for row in csv.reader(io.StringIO(text), strict=True)]
    except csv.Error as error:
        raise Unreadable(f"CSV that can't be read: {error}") from None
    blocks: list[list[list[str]]] = [[]]
    for row in rows:
        blocks[-1].append(row) if any(row) else blocks.append([])
    header, *body = next((block for block in reversed(blocks) if block), [[]])
    if len(header) < 2:
        raise Unreadable("CSV without a table")
    for row in body:
        if len(row) != len(header):
            raise Unreadable(f"a row of {len(row)} cells in a table of {len(header)} columns")
    dated = [index for index, cell in enumerate(header) if index and _moment(cell)]
    if not dated and body and all(_moment(row[0]) for row in body):  # a row for each period
        columns = list(enumerate(header))[1:]
        return [(label, [(row[0], _number(row[index])) for row in body]) for index, label in columns]
    columns = [(index, header[index]) for index in dated or range(1, len(header))]
    labelled = [(", ".join(filter(None, row[: columns[0][0]])), row) for row in body]
    return [(label, [(x, _number(row[index])) for index, x in columns]) for label, row in labelled]


def _json_series(data: dict[str, Any]) -> _Rows:
    """Read series as the segmentation endpoint of the same API writes them."""
    periods, series = [str(x) for x in data["xValues"]], data["series"]
    labels = data.get("seriesLabels")
    if not isinstance(labels, list) or len(labels) != len(series):
        raise Unreadable("series without a label for each")
    rows: _Rows = []
    for label, values in zip(labels, series, strict=True):
        if not isinstance(values, list) or len(values) != len(periods):
            raise Unreadable("a series that has not one value for each period")
        name = label[-1] if isinstance(label, list) and label else label  # [position, label] where it is grouped
        rows.append((str(name), list(zip(periods, map(_number, values), strict=True))))
    return rows


def _number(value: Any) -> float | None:
    """Return a cell's number, percentages as they are shown; ``None`` where it holds none."""
    if isinstance(value, dict):
        value = value.get("value")
    if isinstance(value, str):
        value = value.replace(",", "").removesuffix("%")
    try:
        number = float("nan") if value is None or isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _moment(x: str) -> datetime | None:
    """Return the moment that a period's name writes, naive where it names no time zone."""
    try:
        return datetime.fromisoformat(x) if re.match(r"\d{4}-?\d{2}-?\d{2}", x) else None
    except ValueError:
        return None


def _zone(name: str) -> Any:
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"timezone is {short(name)}, but must be a name like 'Europe/Berlin'") from None
