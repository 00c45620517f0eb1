"""The emulator as an object in this process: for tests, notebooks and the demo."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from copy import deepcopy
from types import TracebackType
from typing import Any

from . import build, charts, seeds, toggles
from .app import application
from .clock import Clock, utc_now
from .errors import ApiError
from .faults import Fault
from .server import Server
from .store import Json, Kind, Thing
from .world import World


class Emulator:
    """A local Amplitude, running while the ``with`` block does.

    Fields are the API's own, in snake_case or camelCase (``rollout_percentage=10``)::

        with Emulator() as amplitude:
            amplitude.add_flag("new-nav", enabled=True, rollout_percentage=10)
            key = {"Authorization": f"Bearer {amplitude.management_key}"}
            httpx.get(f"{amplitude.url}/api/1/flags", headers=key)

    :param seed: what it holds at the start and after ``reset``, see the module ``seeds``.
    :param host: where to listen; the control path answers loopback only, whatever this is.
    :param port: 0 takes a free one.
    :param clock: tells the time.
    """

    def __init__(
        self,
        seed: Mapping[str, Any] | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        clock: Clock = utc_now,
    ) -> None:
        self.world = World(seed, clock=clock)
        self._server = Server(application(self.world), host=host, port=port)

    # --- running -------------------------------------------------------------------------------------

    def start(self) -> Emulator:
        """Start the server; ``with`` does it for you."""
        self._server.start()
        return self

    def stop(self) -> None:
        """Stop the server and free its port."""
        self._server.stop()

    def __enter__(self) -> Emulator:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    # --- where it is and how to get in ---------------------------------------------------------------

    @property
    def url(self) -> str:
        """The base URL, for the APIs (Management v1 and beta, Dashboard REST) and as ``server_url`` of SDKs."""
        return self._server.url

    @property
    def management_key(self) -> str:
        """The first management key."""
        return next(iter(self.world.store.keys))

    @property
    def project_id(self) -> str:
        """The first project."""
        return next(iter(self.world.store.projects))

    @property
    def deployment_key(self) -> str:
        """The key of the first project's default deployment."""
        deployment = self.world.store.default_deployment(self.project_id)
        assert deployment is not None  # every project has one
        return deployment.key

    @property
    def analytics_api_key(self) -> str:
        """The API key of the first project: the user of the Dashboard REST API."""
        return self.world.store.project_keys[self.project_id].api_key

    @property
    def analytics_secret_key(self) -> str:
        """The secret key of the first project: the password of the Dashboard REST API."""
        return self.world.store.project_keys[self.project_id].secret_key

    def airflow_connection(self, **extra: Any) -> str:
        """Return the JSON for an ``AIRFLOW_CONN_…`` variable that leads here."""
        connection = {
            "conn_type": "amplitude_experiment",
            "password": self.management_key,
            "host": self.url,
            "extra": {"project_id": self.project_id, **extra},
        }
        return json.dumps(connection)

    def airflow_analytics_connection(self, **extra: Any) -> str:
        """Return the JSON for an ``AIRFLOW_CONN_…`` variable that leads to this project's charts and cohorts."""
        connection = {
            "conn_type": "amplitude_analytics",
            "login": self.analytics_api_key,
            "password": self.analytics_secret_key,
            "host": self.url,
            "extra": {"timezone": "UTC", **extra},
        }
        return json.dumps(connection)

    # --- what is in it -------------------------------------------------------------------------------

    def add_flag(self, key: str, **fields: Any) -> Json:
        """Add a flag; unless told otherwise it is local, bucketed by ``user_id`` and deployed."""
        return self._add("flag", {"key": key, **fields})

    def add_experiment(self, key: str, **fields: Any) -> Json:
        """Add an experiment, with the same defaults as a flag."""
        return self._add("experiment", {"key": key, **fields})

    def add_mutex(self, key: str, **fields: Any) -> Json:
        """Add a mutual exclusion group; its slots name members by id or key."""
        return self._add("mutex", {"key": key, "bucketing_key": "user_id", "evaluation_mode": "local", **fields})

    def add_holdout(self, key: str, **fields: Any) -> Json:
        """Add a holdout group; it names members by id or key."""
        return self._add("holdout", {"key": key, "bucketing_key": "user_id", "evaluation_mode": "local", **fields})

    def add_chart(self, chart_id: str, series: Mapping[str, Any], **fields: Any) -> Json:
        """Add a saved chart.

        :param series: of each series, by its label, the periods and their values, as pairs or as a mapping.
        :param fields: ``title``, ``metric``, ``conditions`` (for what it costs), ``seconds`` (until it answers).
        """
        given = {"projectId": self.project_id, "id": chart_id, "series": series, **_camel(fields)}
        with self.world.store.lock:
            return seeds.add_chart(self.world.store, given)

    def change_chart(self, chart_id: str, **fields: Any) -> Json:
        """Change fields of a saved chart: ``series`` and those of ``add_chart``."""
        with self.world.store.lock:
            chart = self.world.store.charts.get(chart_id)
            if chart is None:
                raise KeyError(f"there is no chart {chart_id}")
            given = {**charts.describe(chart), **_camel(fields), "id": chart_id, "projectId": chart.project_id}
            self.world.store.charts[chart_id] = charts.make(given, chart.project_id)
            return charts.describe(self.world.store.charts[chart_id])

    def add_cohort(self, cohort_id: str, users: Iterable[Any], **fields: Any) -> Json:
        """Add a behavioral cohort.

        :param users: user ids, or objects of ``user_id``, ``amplitude_id`` and properties.
        :param fields: ``name``, ``description``.
        """
        given = {"projectId": self.project_id, "id": cohort_id, "users": list(users), **_camel(fields)}
        with self.world.store.lock:
            return seeds.add_cohort(self.world.store, given)

    def flag(self, key: str, *, project_id: str | None = None) -> Json:
        """Return a flag as it is now, with every field and each variant's users and cohorts."""
        return seeds.describe(self._thing("flag", key, project_id))

    def experiment(self, key: str, *, project_id: str | None = None) -> Json:
        """Return an experiment as it is now."""
        return seeds.describe(self._thing("experiment", key, project_id))

    def versions(self, key: str, *, project_id: str | None = None) -> list[Json]:
        """Return a flag or experiment as it was in each version, the oldest first, and who made it when."""
        with self.world.store.lock:
            thing = self._thing(None, key, project_id)
            return [
                {
                    **deepcopy(one.config),
                    "version": one.number,
                    "changedAt": one.created_at,
                    "changedBy": one.created_by,
                }
                for one in thing.versions
            ]

    def change(
        self,
        key: str,
        *,
        by: str = "somebody@example.com",
        project_id: str | None = None,
        **fields: Any,
    ) -> Json:
        """Change a flag or experiment as another person would, past keys, limits and the request log."""
        changes = _camel(fields)
        if "variants" in changes:
            changes["variants"] = [build.variant(one) for one in changes["variants"]]
        with self.world.store.lock:
            thing = self._thing(None, key, project_id)
            unknown = sorted(set(changes) - set(thing.data) - {"archive"})
            if unknown:
                raise ValueError(f"{thing.kind} {key} has no {', '.join(unknown)}")
            toggles.update(self.world.store, thing, changes, author=by)
            return seeds.describe(thing)

    def seed(self, document: Mapping[str, Any]) -> None:
        """Add a document to the state, see the module ``seeds``."""
        self.world.seed(document)

    def state(self, *, keys: bool = False) -> Json:
        """Return the whole state as a document; keys are masked unless asked for."""
        return self.world.state(keys=keys)

    def load_state(self, document: Mapping[str, Any]) -> None:
        """Put a state that was saved with its keys in place of the present one."""
        self.world.replace(document)

    def reset(self) -> None:
        """Go back to the seed; forget requests, faults and options."""
        self.world.reset()

    # --- what it was asked, and how it answers -------------------------------------------------------

    def requests(self, *, sdk: bool = False) -> list[Json]:
        """Return the requests to the APIs so far, the oldest first; ``sdk`` adds those of SDKs."""
        return self.world.log.entries(sdk=sdk)

    def clear_requests(self) -> None:
        """Forget the requests so far."""
        self.world.log.clear()

    def fault(
        self,
        kind: str,
        *,
        method: str = "*",
        path: str = "*",
        times: int | None = 1,
        skip: int = 0,
        **details: Any,
    ) -> None:
        """Let matching requests go wrong, see the module ``faults`` for the kinds."""
        common = {"kind": kind, "method": method, "path": path, "times": times, "skip": skip}
        with self.world.store.lock:
            self.world.faults.add(Fault.parse({**common, **details}))

    def clear_faults(self) -> None:
        """Let nothing more go wrong."""
        self.world.faults.clear()

    def options(self, **changes: Any) -> Json:
        """Change how it answers where the sources differ, see the module ``options``; return all options."""
        with self.world.store.lock:
            self.world.store.options = self.world.store.options.changed(changes)
            return self.world.store.options.as_dict()

    # --- helpers -------------------------------------------------------------------------------------

    def _add(self, kind: Kind, fields: Mapping[str, Any]) -> Json:
        given = {"projectId": self.project_id, **_camel(fields)}
        with self.world.store.lock:
            if kind in ("flag", "experiment"):
                deployment = self.world.store.default_deployment(str(given["projectId"]))
                deployed = {"deployments": [deployment.id]} if deployment else {}
                given = {"evaluationMode": "local", "bucketingKey": "user_id", **deployed, **given}
            try:
                return seeds.describe(seeds.add(self.world.store, kind, given))
            except ApiError as error:
                raise ValueError(error.message) from error

    def _thing(self, kind: Kind | None, key: str, project_id: str | None) -> Thing:
        with self.world.store.lock:
            thing = self.world.store.by_key(project_id or self.project_id, key)
            if thing is None or (kind is not None and thing.kind != kind):
                raise KeyError(f"there is no {kind or 'object'} {key}")
            return thing


def _camel(fields: Mapping[str, Any]) -> Json:
    """Return fields in the API's spelling."""
    return {re.sub(r"_([a-z])", lambda found: found[1].upper(), name): value for name, value in fields.items()}
