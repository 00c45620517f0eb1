"""Look at an object before a rollout's first write, refuse what can't go well, and show the whole plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow_amplitude_experiment.api._checks import boolean, one_of
from airflow_amplitude_experiment.api.errors import RolloutRefused

from ._base import AmplitudeTargetOperator, given, is_known
from ._run import begun, is_off, starting_percentage
from .ramp import ON_DRIFT

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_amplitude_experiment.hooks.guard import GuardedClient
    from airflow_amplitude_experiment.hooks.surroundings import Surroundings
    from airflow_amplitude_experiment.rollout.preflight import Findings, Intent

ON_BREACH = one_of("rollback", "off", "hold")
PREVIEW = "preview"
"""Key of the XCom that holds the text."""

UNKNOWN_TRAFFIC = (
    "The smallest harm that each stage can show depends on the traffic: print "
    "plan.preview(start, units_per_hour=…, rate=…) before the start."
)


class AmplitudeBeginRolloutOperator(AmplitudeTargetOperator):
    """Begin a staged rollout: read, refuse or describe; nothing is written.

    Everything that stands against the rollout comes in one error, each finding with its way out. Otherwise the log and
    the XCom ``preview`` hold what the rollout will do: true shares, who is served already, every stage with its dates.
    A run of the past is skipped. A cleared run, or a later try, may find the object on any stage of its plan.

    :param plan: the plan as ``RolloutPlan.as_dict()`` gives it.
    :param start_at, rollback_to, segment, enable, alpha, on_breach, on_drift: as in ``staged_rollout``.
    :param guardrails: those that watch every stage, as ``described`` gives them.
    :param stage_guardrails: those of single stages, by percentage.
    :param check_every: seconds between looks; ``None`` for the default of each stage.
    :param units_per_hour, rate: as in ``RolloutPlan.preview``: the preview then says which harm a stage shows.
    :param experiment_key, experiment_id, flag_key, flag_id: the object; exactly one.
    :param project_id: its project, where the connection names none.
    :param reason: why, for the log.
    :param amplitude_conn_id: id of the Airflow connection.
    :raises AirflowFailException: something stands against the rollout, or an error that another try can't heal.
    :return: ``kind``, ``key``, ``id``, ``project_id``, ``environment``, ``stands_at``, ``enabled``, ``start_at``,
        ``rollback_to``, ``first`` (the percentage that the first raise expects), ``plan``, ``fingerprint``,
        ``weights``, ``share`` (of all users, what mutex and holdout groups let through), ``notes``, ``at`` (UTC).

    Source: Management API, pages "Experiments", "Flags", "Mutex" and "Holdout".
    """

    template_fields: Sequence[str] = (
        *AmplitudeTargetOperator.template_fields,
        "start_at",
        "rollback_to",
        "segment",
        "enable",
        "on_drift",
    )

    def __init__(
        self,
        *,
        plan: Mapping[str, Any],
        start_at: int | str | None = None,
        rollback_to: int | str | None = None,
        segment: str | None = None,
        enable: bool | str = False,
        guardrails: Sequence[Mapping[str, Any]] = (),
        stage_guardrails: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
        alpha: float = 0.05,
        check_every: float | None = None,
        on_breach: str = "rollback",
        on_drift: str = "fail",
        units_per_hour: float | None = None,
        rate: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.plan = dict(plan)
        self.start_at = start_at
        self.rollback_to = rollback_to
        self.segment = segment
        self.enable = enable
        self.guardrails = [dict(each) for each in guardrails]
        self.stage_guardrails = {key: [dict(each) for each in some] for key, some in (stage_guardrails or {}).items()}
        self.alpha = alpha
        self.check_every = check_every
        self.on_breach = on_breach
        self.on_drift = on_drift
        self.units_per_hour = units_per_hour
        self.rate = rate
        ON_BREACH("on_breach", on_breach)
        if is_known(on_drift):
            ON_DRIFT("on_drift", on_drift)
        for value in (start_at, rollback_to):
            if is_known(value):
                starting_percentage(value)

    def act(self, context: Context) -> dict[str, Any]:
        """Read, refuse or describe."""
        from airflow_amplitude_experiment.hooks.surroundings import surroundings
        from airflow_amplitude_experiment.rollout.briefing import of_the_connection
        from airflow_amplitude_experiment.rollout.preflight import preflight

        from ._past import skip_in_the_past

        skip_in_the_past(context, self.log)
        intent, now = self._intent(context), datetime.now(UTC)
        with self.hook.get_conn() as client:
            found = client.read(self.reading(client))
            self.leave_link(context, client, found)
            around = client.read(surroundings(self.kind, found, dialect=client.dialect))
            findings = preflight(found, around, intent, now=now)
            try:
                table, refusals = self._table(found, intent, findings, now), findings.refusals
            except ValueError as error:  # a plan that no window lets go up, or that begins by going down
                table, refusals = "", [*findings.refusals, str(error)]
            if refusals:
                raise RolloutRefused(self._refusal(client, found, refusals))
            findings.notes.extend(of_the_connection(client.rules, intent, reason=self.reason))
            environment = client.rules.environment
        record = self._record(found, around, intent, findings, environment=environment, now=now)
        text = "\n".join([self._headline(record), *(f"- {each}" for each in findings.notes), "", table])
        context["ti"].xcom_push(key=PREVIEW, value=text)
        self.log.info("%s", text)
        return record

    def _intent(self, context: Context) -> Intent:
        """Return what is asked for, once templates are rendered."""
        from airflow_amplitude_experiment.rollout.plan import RolloutPlan
        from airflow_amplitude_experiment.rollout.preflight import Intent

        ON_DRIFT("on_drift", self.on_drift)
        run = begun(context, writes=False)  # its own wait for the quota is no sign that a stage may have been reached
        return Intent(
            kind=self.kind,
            plan=RolloutPlan.from_dict(self.plan),
            start_at=starting_percentage(self.start_at),
            rollback_to="off" if is_off(self.rollback_to) else starting_percentage(self.rollback_to),
            segment=given(self.segment),
            enable=boolean("enable", self.enable),
            again=bool(run and run.again),
            guardrails=self.guardrails,
            stage_guardrails=self.stage_guardrails,
            check_every=self.check_every,
            on_breach=self.on_breach,
            on_drift=self.on_drift,
        )

    def _table(self, found: Any, intent: Intent, findings: Findings, now: datetime) -> str:
        """Return the plan with its dates.

        :raises ValueError: the plan can't be carried out like that.
        """
        from airflow_amplitude_experiment.rollout.guardrails import comparisons
        from airflow_amplitude_experiment.rollout.history import percentage_of

        stands = percentage_of(found, intent.segment)
        reached = stands is not None and stands > intent.first and stands in intent.plan.percentages
        compared = [each for each in intent.all_guardrails if each["type"] == "sql"]
        traffic = None if self.units_per_hour is None else self.units_per_hour * (findings.share or 1)
        served = [variant for variant, weight in findings.weights.items() if weight]
        preview = intent.plan.preview(
            now,
            rollback_to="off" if intent.on_breach == "off" and not intent.target else intent.rollback_to,
            start_at=int(stands) if reached and stands is not None else intent.start_at,
            units_per_hour=traffic,
            rate=self.rate,
            mde=compared[0]["mde"] if compared and traffic is not None else None,
            design=compared[0]["design"] if compared else "variants",
            alpha=self.alpha,
            comparisons=comparisons(intent.all_guardrails, served),
        )
        unknown = "" if traffic is not None or not compared else f"\n{UNKNOWN_TRAFFIC}"
        return f"{preview}{unknown}"

    def _refusal(self, client: GuardedClient, found: Any, refusals: Sequence[str]) -> str:
        from airflow_amplitude_experiment.api import AmplitudeError
        from airflow_amplitude_experiment.hooks.lookup import calls_of
        from airflow_amplitude_experiment.rollout.history import last_change

        try:
            change = last_change(client.send(calls_of(self.kind).versions(found.id)))
        except AmplitudeError as error:
            self.log.warning("The refusal can't name the last change: %s", error)
            change = ""
        told = "\n".join(f"- {each}" for each in refusals)
        return (
            f"{self.target} (id {found.id}, project {found.project_id}) can't be rolled out as asked:\n{told}\n"
            f"Nothing was written.{change}"
        )

    def _record(
        self,
        found: Any,
        around: Surroundings,
        intent: Intent,
        findings: Findings,
        *,
        environment: str | None,
        now: datetime,
    ) -> dict[str, Any]:
        from airflow_amplitude_experiment.rollout.fingerprint import fingerprint
        from airflow_amplitude_experiment.rollout.history import percentage_of

        return {
            "kind": self.kind,
            "key": found.key,
            "id": found.id,
            "project_id": found.project_id,
            "environment": environment,
            "segment": intent.segment,
            "stands_at": percentage_of(found, intent.segment),
            "enabled": bool(found.enabled),
            "start_at": intent.start_at,
            "rollback_to": intent.rollback_to,
            "first": intent.first,
            "plan": intent.plan.as_dict(),
            "fingerprint": fingerprint(found, around.variants, segment=intent.segment),
            "weights": findings.weights,
            "share": findings.share,
            "notes": findings.notes,
            "at": now.isoformat(timespec="seconds"),
        }

    def _headline(self, record: Mapping[str, Any]) -> str:
        environment = f", {record['environment']}" if record["environment"] else ""
        scope = f"segment {record['segment']!r} " if record["segment"] else ""
        switch = "enabled" if record["enabled"] else "disabled"
        why = f" Reason: {self.reason}" if self.reason else ""
        return (
            f"{self.target} (id {record['id']}, project {record['project_id']}{environment}): {scope}stands at "
            f"{record['stands_at']} %, {switch}. Nothing is written yet.{why}"
        )
