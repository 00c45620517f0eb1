"""The rate limits of the API: so many requests per project and second, and per project and UTC day."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from math import ceil

from .errors import ApiError
from .store import Store


class RateLimits:
    """Counts requests per project and refuses with 429 those beyond a limit."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.clear()

    def clear(self) -> None:
        """Forget what was counted."""
        self._seconds: dict[str, tuple[int, int]] = {}
        self._days: dict[str, tuple[str, int]] = {}

    def charge(self, projects: Iterable[str]) -> None:
        """Count one request against each of these projects.

        :raises ApiError: 429 if one of them has used up its share; then nothing is counted.
        """
        now = self._store.clock().astimezone(UTC)
        second, day = int(now.timestamp()), now.date().isoformat()
        projects = list(projects)
        options = self._store.options
        for project in projects:
            _refuse_beyond(options.requests_per_second, self._seconds.get(project), second, self._wait(now, 1))
            _refuse_beyond(options.requests_per_day, self._days.get(project), day, self._wait(now, 86_400))
        for project in projects:
            self._seconds[project] = (second, _count(self._seconds.get(project), second) + 1)
            self._days[project] = (day, _count(self._days.get(project), day) + 1)

    def _wait(self, now: datetime, period: int) -> dict[str, str]:
        if self._store.options.retry_after == "none":
            return {}
        seconds = max(1, ceil(period - now.timestamp() % period))
        if self._store.options.retry_after == "seconds":
            return {"Retry-After": str(seconds)}
        return {"Retry-After": format_datetime(now + timedelta(seconds=seconds), usegmt=True)}


def _refuse_beyond(
    limit: int | None,
    seen: tuple[int | str, int] | None,
    period: int | str,
    headers: dict[str, str],
) -> None:
    if limit is not None and _count(seen, period) >= limit:
        raise ApiError(429, "Too many requests for this project.", headers=headers)


def _count(seen: tuple[int | str, int] | None, period: int | str) -> int:
    return seen[1] if seen is not None and seen[0] == period else 0
