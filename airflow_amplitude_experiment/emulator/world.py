"""Everything that one running emulator holds, and what it goes back to on a reset."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from . import charts, cohorts, seeds
from .clock import Clock, utc_now
from .errors import ApiError
from .faults import Faults
from .limits import RateLimits
from .request_log import RequestLog
from .store import Json, Store


class World:
    """State, limits, faults and the request log of one emulator."""

    def __init__(self, seed: Mapping[str, Any] | None = None, *, clock: Clock = utc_now) -> None:
        self.store = Store(clock=clock)
        self.limits = RateLimits(self.store)
        self.chart_limits = charts.Limits(self.store)
        self.exports = cohorts.Exports(self.store)
        self.faults = Faults()
        self.log = RequestLog(self._secrets)
        self._seed: Mapping[str, Any] = seeds.DEFAULT_SEED if seed is None else seed
        self.reset()

    def reset(self) -> None:
        """Go back to the seed; forget requests, faults and options."""
        with self.store.lock:
            self.store.clear()
            seeds.load(self.store, self._seed)
            self.limits.clear()
            self.chart_limits.clear()
            self.exports.clear()
            self.faults.clear()
            self.log.clear()

    def seed(self, document: Mapping[str, Any]) -> None:
        """Add a document to the state, all of it or nothing.

        :raises ValueError: the document is wrong.
        """
        self._load(document, replace=False)

    def replace(self, document: Mapping[str, Any]) -> None:
        """Put a saved state in place of the present one.

        :raises ValueError: the document is wrong.
        """
        self._load(document, replace=True)

    def state(self, *, keys: bool = False) -> Json:
        """Return all state as a document."""
        with self.store.lock:
            return seeds.dump(self.store, keys=keys)

    def _load(self, document: Mapping[str, Any], *, replace: bool) -> None:
        with self.store.lock:
            before = seeds.dump(self.store, keys=True)
            try:
                if replace:
                    self.store.clear()
                seeds.load(self.store, document)
            except (ApiError, ValueError, KeyError, TypeError, AttributeError) as error:
                self.store.clear()
                seeds.load(self.store, before)
                missing = f"{error} is missing" if isinstance(error, KeyError) else str(error)
                raise ValueError(missing) from error

    def _secrets(self) -> Iterator[str]:
        yield from list(self.store.keys)
        yield from [one.key for one in self.store.deployments.values()]
        for keys in list(self.store.project_keys.values()):
            yield from (charts.basic(keys), keys.secret_key, keys.api_key)
        yield from [link for one in list(self.exports.all.values()) for link in list(one.links)]
