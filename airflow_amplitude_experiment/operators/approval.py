"""Ask a person before a raise.

Airflow's own approval; what is added is the text, put together when the question is asked: what is raised, for whom,
what the guardrails say now, and how to get back.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from inspect import signature
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowFailException
from airflow.providers.standard.exceptions import HITLRejectException, HITLTimeoutError
from airflow.providers.standard.operators.hitl import ApprovalOperator, HITLOperator

from airflow_amplitude_experiment.rollout.durations import in_words

from ._base import TargetMixin, ending_what_cannot_heal, given
from ._run import is_off, now, pulled, starting_percentage

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

    def validate_params(self) -> None:
        """Leave the DAG's params out of the question, as newer releases do.

        Older ones would ask for a value of each again, and at parse refuse a DAG whose form has a required field.
        """
        self.params = type(self.params)()

    def execute(self, context: Context) -> Any:
        """Write the question, and wait."""
        with ending_what_cannot_heal():
            start = starting_percentage(self.start_at)
            if start is not None and self.percentage <= start:
                self.log.info("Nobody is asked: %s %% is not above start_at=%s", self.percentage, start)
                return {"not_asked": f"{self.percentage} % is not above start_at={start}"}
            begun = pulled(context, self.begin) or {}
            self.subject = self._subject(begun)
            self.body = self._body(context, begun)
        self.log.info("%s\n%s", self.subject, self.body)
        return super().execute(context)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:
        """Take the answer; a Reject, or none in time, ends the task for good, whatever its retries.

        :raises AirflowFailException: nobody approved.
        """
        try:
            return super().execute_complete(context, event)
        except HITLRejectException as error:
            who = event.get("responded_by_user") or {}
            raise AirflowFailException(f"Rejected by {who.get('name') or who.get('id')}. {self._stays()}") from error
        except HITLTimeoutError as error:
            raise AirflowFailException(f"No answer within {in_words(self.within)}. {self._stays()}") from error

    def _stays(self) -> str:
        return f"{self.target} stays at {self._from()} %, nothing was written. To ask again, clear this task."

    def _from(self) -> int:
        """The percentage at which it stands."""
        start, base = starting_percentage(self.start_at), starting_percentage(self.rollback_to) or 0
        return max(base if self.stage is None else self.stage, start or 0)

    def _is_first_raise(self) -> bool:
        return self.stage is None or self.stage <= (starting_percentage(self.start_at) or 0)

    def _subject(self, begun: Mapping[str, Any]) -> str:
        environment = f" ({begun['environment']})" if begun.get("environment") else ""
        return f"Raise {self.target}{environment} from {self._from()} % to {self.percentage} %?"

    def _body(self, context: Context, begun: Mapping[str, Any]) -> str:
        """Return what has to be known for an answer, as Markdown."""
        from airflow_amplitude_experiment.ui.links import URL_KEY

        switched_on = ", and switched on" if self._is_first_raise() and begun.get("enabled") is False else ""
        rows = [
            ("Project", begun.get("project_id") or given(self.project_id) or "not on record"),
            ("Raise", f"{self._from()} % -> {self.percentage} %{switched_on}"),
            ("Newly exposed", self._newly_exposed(begun)),
            ("Guardrails", self._guardrails(context)),
            ("On a breach", self._way_back(begun)),
            ("Reason", _plain(given(self.reason) or "none given")),
            (
                "Answer by",
                f"{now() + self.within:%Y-%m-%d %H:%MZ} ({in_words(self.within)}). Without an answer, or on Reject, "
                f"the run fails: it stays at {self._from()} %, nothing is written",
            ),
        ]
        text = "\n".join(f"* **{name}:** {what}" for name, what in rows)
        url = pulled(context, self.begin, URL_KEY)
        return f"{text}\n\n[Open in Amplitude]({url})" if url else text

    def _newly_exposed(self, begun: Mapping[str, Any]) -> str:
        points = self.percentage - self._from()
        segment = given(self.segment)
        whom = f"users of segment {_plain(segment)}" if segment else "users who match no target segment"
        share = begun.get("share")
        if share is None or share == 1:
            return f"{points} % of {whom}"
        return f"{points} % of {whom}, which is {points * share:.4g} % after mutex and holdout groups"

    def _guardrails(self, context: Context) -> str:
        verdict = pulled(context, self.watch, "verdict")
        if not isinstance(verdict, Mapping):
            return "not looked at yet" if self.watch is None else "no verdict on record (marked by hand?)"
        if not verdict["guardrails"]:
            return f"{verdict['verdict']} at {verdict['at']}: {_plain(verdict['reason'])}"
        from ._look import Look, lines

        look = Look(
            verdict=verdict["verdict"], reason=verdict["reason"], guardrails=list(verdict["guardrails"]), memory={}
        )
        each = [f"    * {_plain(line)}" for line in lines(look)]
        return "\n".join([f"{verdict['verdict']} at {verdict['at']}", *each])

    def _way_back(self, begun: Mapping[str, Any]) -> str:
        if self.on_breach == "hold":
            return f"nothing is written, it stays at {self.percentage} % (on_breach='hold')"
        if self.on_breach == "off" or is_off(self.rollback_to):
            return "it is switched off: everybody loses the variant"
        back = f"back to {starting_percentage(self.rollback_to) or 0} %"
        sticky = (begun.get("fingerprint") or {}).get("stickyBucketing")
        if sticky:
            return f"{back}, but sticky bucketing is on: lowering keeps everybody in who is in"
        unless = " unless sticky bucketing keeps them in" if sticky is None else ""
        return f"{back}: users above it lose the variant{unless}"


def _plain(text: Any) -> str:
    """Return words of other people as one line of Markdown that shows them as they are."""
    return re.sub(r"([\\`*<\[])", r"\\\1", " ".join(str(text).split()))
