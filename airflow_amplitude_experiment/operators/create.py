"""Create a flag or an experiment, or go on with the one that is there.

Amplitude takes a new object in two calls: the create knows neither switch nor percentage nor tags nor dates, and
no idempotency key. So a task looks by key first, creates once, and finishes what an earlier try left half done,
but only as long as nobody touched it since.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, date, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from airflow.providers.common.compat.sdk import BaseOperatorLink

from airflow_amplitude_experiment.api._checks import boolean, one_of
from airflow_amplitude_experiment.ui.links import OpenInAmplitudeLink, leave_link

from ._assets import announce
from ._base import AmplitudeOperator, given, is_known, project_named
from ._described import (
    ARGUMENTS,
    EXPERIMENTS_ONLY,
    FLAG_ARGUMENTS,
    as_text,
    check_what_is_known,
    described,
    refuse_dates_of_the_task,
)
from ._run import tried_before

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_amplitude_experiment.rollout.description import Wanted

    from ._audit import Audit
    from ._creation import Outcome

IF_EXISTS = one_of("adopt", "update", "fail")


class _CreateOperator(AmplitudeOperator):
    """What both operators share; their docstrings tell the rest."""

    kind: ClassVar[Literal["flag", "experiment"]]
    writes_percentage = True
    writes_objects = True
    operator_extra_links: Collection[BaseOperatorLink] = (OpenInAmplitudeLink(),)
    template_fields: Sequence[str] = (
        *AmplitudeOperator.template_fields,
        "key",
        "project_id",
        *FLAG_ARGUMENTS,
        "if_exists",
        "adopt_live",
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {
        "variants": "json",
        "rollout_weights": "json",
        "target_segments": "json",
    }

    def __init__(
        self,
        *,
        key: str,
        project_id: str | int | None = None,
        name: str | None = None,
        description: str | None = None,
        variants: Sequence[Mapping[str, Any]] | str | None = None,
        bucketing_key: str | None = None,
        rollout_weights: Mapping[str, int] | str | None = None,
        target_segments: Sequence[Mapping[str, Any]] | str | None = None,
        deployments: Sequence[str | int] | str | None = None,
        evaluation_mode: Literal["local", "remote"] | str | None = None,
        enabled: bool | str | None = None,
        rollout_percentage: int | str | None = None,
        tags: Sequence[str] | str | None = None,
        bucketing_salt: str | None = None,
        bucketing_unit: str | None = None,
        if_exists: Literal["adopt", "update", "fail"] | str = "adopt",
        adopt_live: bool | str = False,
        **kwargs: Any,
    ) -> None:
        refuse_dates_of_the_task(kwargs)
        super().__init__(**kwargs)
        self.key = key
        self.project_id = project_id
        self.name = name
        self.description = description
        self.variants = variants
        self.bucketing_key = bucketing_key
        self.rollout_weights = rollout_weights
        self.target_segments = target_segments
        self.deployments = deployments
        self.evaluation_mode = evaluation_mode
        self.enabled = enabled
        self.rollout_percentage = rollout_percentage
        self.tags = tags
        self.bucketing_salt = bucketing_salt
        self.bucketing_unit = bucketing_unit
        self.if_exists = if_exists
        self.adopt_live = adopt_live
        if is_known(if_exists):
            IF_EXISTS("if_exists", if_exists)
        if isinstance(key, str) and not key.strip():
            raise ValueError(f"key is {key!r}, but must name the {self.kind}")
        check_what_is_known(self._values())

    def act(self, context: Context) -> dict[str, Any]:
        """Look by key, then create, finish, adopt or update."""
        from ._audit import Audit
        from ._creation import Creation, Outcome
        from ._past import skip_in_the_past

        skip_in_the_past(context, self.log)
        IF_EXISTS("if_exists", self.if_exists)
        adopt_live = boolean("adopt_live", given(self.adopt_live) or False)
        wanted, arguments = described(self.kind, self.key, self._values())
        with self.hook.get_conn() as client:
            project = project_named(self.project_id, client.rules.project_id)
            audit = Audit.of(context, environment=client.rules.environment, reason=self.reason, log=self.log)
            task = Creation(client, wanted, project=project, reason=self.reason, audit=audit, log=self.log)
            report = partial(self._report, context, audit, wanted, project)
            url, mine = None, False
            if (found := task.find()) is None:
                found, url, mine = task.create(arguments)
            if found is None:
                later = f", and then set {', '.join(wanted.patch)}" if wanted.patch else ""
                return report(Outcome(words=f"would be created{later} (read-only, not sent)"))
            url = leave_link(context, client, found, url)
            if mine:
                return report(task.finish(found, created=True), url)
            outcome = task.take_over(
                found,
                if_exists=self.if_exists,  # type: ignore[arg-type]  # checked after rendering
                adopt_live=adopt_live,
                run_after=_began(context, again=task.may_be_mine),
            )
            return report(outcome, url)

    def _values(self) -> dict[str, Any]:
        """Return the description by the names of the API's fields."""
        return {field: getattr(self, argument, None) for field, argument in ARGUMENTS.items()}

    def _report(
        self,
        context: Context,
        audit: Audit,
        wanted: Wanted,
        project: str | None,
        outcome: Outcome,
        url: str | None = None,
    ) -> dict[str, Any]:
        found = outcome.found
        state = ""
        if found is not None:
            switch = "enabled" if found.enabled else "disabled"
            state = f" (id {found.id}, {switch}, {found.rollout_percentage} %)"
        self.log.info("%s: %s%s", wanted, outcome.words, state)
        record = {
            "kind": self.kind,
            "key": wanted.key,
            "id": getattr(found, "id", None),
            "project_id": getattr(found, "project_id", None) or project,
            "url": url,
            "created": outcome.created,
            "adopted": outcome.adopted,
            "updated": list(outcome.updated),
            "enabled": getattr(found, "enabled", None),
            "rollout_percentage": getattr(found, "rollout_percentage", None),
            "written": outcome.written,
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "reason": self.reason,
            **audit.facts(),
        }
        if outcome.written:
            announce(context, {**record, "after": record["rollout_percentage"]})
        return record


def _began(context: Context, *, again: bool) -> datetime | None:
    """Return since when an object may be this run's own work; ``None`` where this run can't have made one yet."""
    run = context.get("dag_run")
    again = again or tried_before(context) or bool(getattr(run, "clear_number", 0))
    return getattr(run, "run_after", None) if again else None


class AmplitudeCreateFlagOperator(_CreateOperator):
    """Create a flag, or go on with the one of this key.

    Looks by key, archived ones included. Where there is none it is created, and then gets in a second call what
    Amplitude's create does not take; both are read back. A create whose answer was lost is looked for before
    anything is sent again, so there is never a second flag. One that is there is compared with what this task
    describes: as its creation left it (disabled, 0 %, one version) it still gets the second call; otherwise
    ``if_exists`` decides. A flag that this run created itself, and that still is as described, may be live: the
    task can be cleared after the ramps have moved on. A run of the past is skipped.

    Where an argument is left out (``None``, or a template that renders to nothing) it is neither sent nor
    compared; the variants of a new flag are then ``on``, weights 1 each, evaluation ``remote``. Lists and mappings
    from a template must be JSON (``{{ … | tojson }}``).

    :param key: key of the flag, unique in its project among flags, experiments and groups.
    :param project_id: its project, where the connection names none.
    :param name, description: texts for people.
    :param variants: list of ``{"key": …, "name": …, "description": …, "payload": any JSON}``.
    :param bucketing_key: what users are told apart by, such as ``user_id``.
    :param rollout_weights: mapping of variant key to a whole number; only their proportion counts.
    :param target_segments: list of ``{"name", "conditions", "percentage" (0 to 100), "rolloutWeights"}``; a segment
        without conditions needs ``"everyone": True``.
    :param deployments: ids of the deployments that serve it.
    :param evaluation_mode: ``local`` or ``remote``.
    :param enabled: the switch; second call.
    :param rollout_percentage: whole, 0 to 100, of users who match no segment; second call.
    :param tags: second call; an update adds to those that are there.
    :param bucketing_salt, bucketing_unit: second call.
    :param if_exists: ``adopt`` goes on with one that stands as described and writes nothing; ``update`` also sends
        what differs, never the switch or a percentage, never what would move users of a flag that was ever
        enabled between variants, and takes nothing away; ``fail`` refuses one that this run didn't create.
    :param adopt_live: go on with one that is enabled above 0 %, whatever its segments' percentages are.
    :param reason: why, for the log and the record; the connection may require it.
    :param amplitude_conn_id: id of the Airflow connection.
    :raises AirflowFailException: refused (the text lists everything that differs), not confirmed by reading back,
        or an error that another try can't heal.
    :return: a record: ``kind``, ``key``, ``id``, ``project_id``, ``url``, ``created``, ``adopted``, ``updated``
        (names), ``enabled``, ``rollout_percentage``, ``written``, ``at`` (UTC), ``reason``, and where it came from:
        ``environment``, ``dag_id``, ``run_id``, ``task_id``, ``map_index``, ``try_number``.

    Source: Management API, "Create flag" (``POST /flags``) and "Edit flag" (``PATCH /flags/{id}``).
    """

    kind = "flag"


class AmplitudeCreateExperimentOperator(_CreateOperator):
    """Create a feature experiment, or go on with the one of this key.

    Works as :class:`AmplitudeCreateFlagOperator` and takes all its arguments; the variants of a new experiment are
    ``control`` and ``treatment`` where they are left out. The dates start and end nothing in Amplitude: they are
    information, and what ``AmplitudeEndDateSensor`` waits for.

    :param experiment_type: ``a-b-test`` or ``multi-arm-bandit``.
    :param experiment_start_date, experiment_end_date: ISO 8601, a date or a moment with a time zone; second call.
        (``start_date`` is the task's own in Airflow.)
    :param sticky_bucketing: users who have a variant keep it; second call.
    :param exposure_event: ``{"event_type": …, "filters": […]}``; second call.

    Source: Management API, "Create experiment" (``POST /experiments``) and "Edit experiment".
    """

    kind = "experiment"
    template_fields: Sequence[str] = (*_CreateOperator.template_fields, *EXPERIMENTS_ONLY)

    def __init__(
        self,
        *,
        experiment_type: Literal["a-b-test", "multi-arm-bandit"] | str | None = None,
        experiment_start_date: str | date | None = None,
        experiment_end_date: str | date | None = None,
        sticky_bucketing: bool | str | None = None,
        exposure_event: Mapping[str, Any] | str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.experiment_type = experiment_type
        self.experiment_start_date = as_text("experiment_start_date", experiment_start_date)
        self.experiment_end_date = as_text("experiment_end_date", experiment_end_date)
        self.sticky_bucketing = sticky_bucketing
        self.exposure_event = exposure_event
        check_what_is_known(self._values())
