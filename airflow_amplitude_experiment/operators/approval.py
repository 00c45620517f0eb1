"""Ask a person before a raise.

Airflow's own approval; what is added is the text, put together when the question is asked: what is raised, for whom,
what the guardrails say now, and how to get back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from inspect import signature
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.hitl import ApprovalOperator, HITLOperator

from ._base import TargetMixin, ending_what_cannot_heal, given
from ._run import is_off, pulled, starting_percentage

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context


class AmplitudeApproveRaiseOperator(TargetMixin, ApprovalOperator):
    """Ask whether a staged rollout may go on to its next stage; there is no default answer.

    Reject, or no answer in time, fails the task and with it the run, at the percentage it stands at. Nothing is
    written. Where the run begins at or above the next stage nobody is asked.

    :param stage: the percentage that it stands at; ``None`` before the first raise.
    :param percentage: the percentage that is asked for.
    :param start_at, rollback_to, segment, on_breach: as in ``staged_rollout``.
    :param begin: task id of the rollout's ``begin``.
    :param watch: task id of the watch before, if any.
    :param within: how long to wait for an answer.
    :param reason: why the rollout is made, for the text.
    :return: Airflow's record of the answer, or ``{"not_asked": why}``.
    """

    template_fields: Sequence[str] = (
        *ApprovalOperator.template_fields,
        *TargetMixin.target_fields,
        "start_at",
        "rollback_to",
        "segment",
        "reason",
    )
    ui_color = "#fdf1c4"

    def __init__(
        self,
        *,
        stage: int | None,
        percentage: int,
        start_at: int | str | None = None,
        rollback_to: int | str | None = None,
        segment: str | None = None,
        on_breach: str = "rollback",
        begin: str,
        watch: str | None = None,
        within: timedelta,
        reason: str | None = None,
        experiment_key: str | None = None,
        experiment_id: str | int | None = None,
        flag_key: str | None = None,
        flag_id: str | int | None = None,
        project_id: str | int | None = None,
        **kwargs: Any,
    ) -> None:
        # Older releases know one limit for the task and the answer; a DAG's default must not stand in for ours.
        limit = "response_timeout" if "response_timeout" in signature(HITLOperator).parameters else "execution_timeout"
        limits: dict[str, Any] = {"execution_timeout": None, limit: within}
        super().__init__(fail_on_reject=True, **limits, **kwargs)
        self.name_target(
            experiment_key=experiment_key,
            experiment_id=experiment_id,
            flag_key=flag_key,
            flag_id=flag_id,
            project_id=project_id,
        )
        self.stage = stage
        self.percentage = percentage
        self.start_at = start_at
        self.rollback_to = rollback_to
        self.segment = segment
        self.on_breach = on_breach
        self.begin = begin
        self.watch = watch
        self.within = within
        self.reason = reason

    def execute(self, context: Context) -> Any:
        """Write the question, and wait."""
        with ending_what_cannot_heal():
            start = starting_percentage(self.start_at)
            if start is not None and self.percentage <= start:
                self.log.info("Nobody is asked: %s %% is not above start_at=%s", self.percentage, start)
                return {"not_asked": f"{self.percentage} % is not above start_at={start}"}
            self.subject = self._subject(context)
            self.body = self._body(context)
        self.log.info("%s\n%s", self.subject, self.body)
        return super().execute(context)

    def _from(self) -> int:
        """The percentage at which it stands."""
        start, base = starting_percentage(self.start_at), starting_percentage(self.rollback_to) or 0
        return max(each for each in (self.stage, start, base if self.stage is None else None) if each is not None)

    def _subject(self, context: Context) -> str:
        begun = pulled(context, self.begin) or {}
        environment = f" ({begun['environment']})" if begun.get("environment") else ""
        return f"Raise {self.target}{environment} from {self._from()} % to {self.percentage} %?"

    def _body(self, context: Context) -> str:
        """Return what has to be known for an answer, as Markdown."""
        from airflow_amplitude_experiment.ui.links import URL_KEY

        begun = pulled(context, self.begin) or {}
        url = pulled(context, self.begin, URL_KEY)
        rows = [
            ("Project", begun.get("project_id") or "not on record"),
            ("Raise", f"{self._from()} % -> {self.percentage} %{self._of()}"),
            ("Newly exposed", self._newly_exposed(begun)),
            ("Guardrails", self._guardrails(context)),
            ("On a breach", self._way_back()),
            ("Reason", self.reason or "none given"),
            ("Without an answer", "the run fails after the time for it; it stays where it stands, nothing is written"),
        ]
        text = "\n".join(f"* **{name}:** {what}" for name, what in rows)
        return f"{text}\n\n[Open in Amplitude]({url})" if url else text

    def _of(self) -> str:
        return f" of segment {segment}" if (segment := given(self.segment)) else ""

    def _newly_exposed(self, begun: Mapping[str, Any]) -> str:
        points = self.percentage - self._from()
        whom = (
            f"users of segment {segment}" if (segment := given(self.segment)) else "users who match no target segment"
        )
        share = begun.get("share")
        if share is None or share == 1:
            return f"{points} % of {whom}"
        return f"{points} % of {whom}, which is {points * share:.4g} % after mutex and holdout groups"

    def _guardrails(self, context: Context) -> str:
        verdict = pulled(context, self.watch, "verdict")
        if not isinstance(verdict, Mapping):
            return "not looked at yet" if self.watch is None else "no verdict on record (marked by hand?)"
        from ._look import Look, lines

        look = Look(
            verdict=verdict["verdict"], reason=verdict["reason"], guardrails=list(verdict["guardrails"]), memory={}
        )
        said = [f"{verdict['verdict']} at {verdict['at']}: {verdict['reason']}", *lines(look)]
        return "\n".join([said[0], *(f"    * {line}" for line in said[1:])])

    def _way_back(self) -> str:
        if self.on_breach == "hold":
            return "it stays where it stands (on_breach='hold')"
        if self.on_breach == "off" or is_off(self.rollback_to):
            return "it is switched off; everybody loses the variant"
        base = starting_percentage(self.rollback_to) or 0
        return f"back to {base} %; users above it lose the variant, unless sticky bucketing keeps them in"
