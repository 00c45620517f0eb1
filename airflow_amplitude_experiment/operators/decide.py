"""Decide an experiment: roll a variant out, roll it back, or let it run on."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from airflow_amplitude_experiment.api import _checks as check

from ._base import AmplitudeEditOperator, given, is_known
from ._described import as_text, refuse_dates_of_the_task
from ._run import begun, ramped_earlier

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_amplitude_experiment.rollout.decision import Order

    from ._edit import Edit
    from ._run import Begun

ON_DRIFT = check.one_of("fail", "overwrite")


class Asked(NamedTuple):
    """What is asked for, the run that asks, and what its earlier tasks did to the percentage."""

    order: Order
    run: Begun | None
    ramps: list[dict[str, Any]]


class AmplitudeDecideExperimentOperator(AmplitudeEditOperator):
    """Do for an experiment what the decision in Amplitude's app does: roll out, roll back, continue.

    Amplitude's API keeps a decision as a label and does not say whether anything follows from it. So this task takes
    the steps itself, one after the other, and reads back after each:

    ``rollout``
        sticky bucketing off; the winner's weight to 100, then each other one to 0; every target segment to 100 % for
        the winner; 100 % of all other users together with the decision. Everybody who gets as far as the experiment
        then gets the winner, also where only target segments were served before. The log says first how many people
        change variant, how many newly get one, and how many are included by name in other variants: they stay there.
    ``rollback``
        one write: off, 0 %, and the decision. Target segments keep their percentages, which reach nobody.
    ``continue-running``
        one write: the new end date, and the decision.

    Steps that stand already are left out: a task that died, or was cleared, goes on with the next one, and an
    experiment that is decided so already costs one read. Refused before the first write are: another decision than the
    one that is there (``continue-running`` may be followed by any), one that was changed since it was decided so, a
    disabled experiment (``enable``), a bandit's rollout (Amplitude sets its weights itself; roll it out in the app),
    target segments that the API can't write back, and whatever the connection's rules or the freeze forbid one of
    the steps. What stands below where this run's own ramps left it, or was lowered or disabled since the run began,
    is raised or enabled by no task of that run, only by a new one that a person starts; where it is in question the
    versions are read, one request more.

    A rollout by key costs one read, two for each losing variant (who is included), and two for each step: a write, and
    reading it back.

    A step that Amplitude accepts and that does not take waits for an approval there. The task then fails for good,
    naming the step, what is done and what is left; approve it in Amplitude and clear the task: it goes on.

    :param decision: ``rollout``, ``rollback`` or ``continue-running``.
    :param variant: key of the winner, for a rollout; otherwise not looked at.
    :param decision_reason: why, kept on the experiment in Amplitude; default is ``reason``.
    :param experiment_end_date: the new end of one that continues, ISO 8601, a date or a moment with a time zone;
        otherwise not looked at. (``end_date`` is the task's own in Airflow.)
    :param enable: switch a disabled experiment on, in the write that decides.
    :param on_drift: ``fail``, or ``overwrite`` to decide anew what was decided otherwise or changed since.
    :param experiment_key, experiment_id: the experiment; exactly one.
    :param project_id: its project, where the connection names none.
    :param reason: why, for the log and the record; the connection may require it.
    :param amplitude_conn_id: id of the Airflow connection.
    :raises AirflowFailException: refused, waiting for an approval, or an error that another try can't heal.
    :return: a record: ``kind``, ``key``, ``id``, ``project_id``, ``decision``, ``variant``, ``decision_reason``,
        ``end_date``, ``before`` and ``after`` (percentages), ``enabled``, ``steps`` (in words; with a read-only
        connection those that would be taken), ``people`` (for each target segment and all other users, in percent:
        ``who``, ``before`` and ``after`` by variant, ``change_variant`` of those in it, ``newly_get_one``,
        ``lose_theirs``), ``included`` (counts by losing variant), ``written``, ``at`` (UTC), ``reason``, and where it
        came from. ``people`` and ``included`` are there where something had to be done.

    Source: Management API, "Edit experiment" (``decision``, ``rolledOutVariant``, …) and "Edit variant".
    """

    template_fields: Sequence[str] = (
        *AmplitudeEditOperator.template_fields,
        "decision",
        "variant",
        "decision_reason",
        "experiment_end_date",
        "enable",
        "on_drift",
    )

    def __init__(
        self,
        *,
        decision: Literal["rollout", "rollback", "continue-running"] | str,
        variant: str | None = None,
        decision_reason: str | None = None,
        experiment_end_date: str | date | None = None,
        enable: bool | str = False,
        on_drift: Literal["fail", "overwrite"] | str = "fail",
        **kwargs: Any,
    ) -> None:
        if any(kwargs.get(name) is not None for name in ("flag_key", "flag_id")):
            raise ValueError("a flag has no decision; give experiment_key or experiment_id")
        refuse_dates_of_the_task(kwargs)
        super().__init__(**kwargs)
        self.decision = decision
        self.variant = variant
        self.decision_reason = decision_reason
        self.experiment_end_date = as_text("experiment_end_date", experiment_end_date)
        self.enable = enable
        self.on_drift = on_drift
        self._check_what_is_known()

    def order(self, context: Context) -> Asked:
        """Return what is asked for, and what of the run matters."""
        from airflow_amplitude_experiment.rollout.decision import Order

        decision = check.decision("decision", self.decision)
        variant, end_date = _for(decision, given(self.variant), given(self.experiment_end_date))
        reason = given(self.decision_reason) or given(self.reason)
        ON_DRIFT("on_drift", self.on_drift)
        order = Order(
            decision=decision,
            variant=variant,
            reason=None if reason is None else check.text("decision_reason", reason),
            end_date=end_date,
            enable=check.boolean("enable", given(self.enable) or False),
            overwrite=self.on_drift == "overwrite",
        )
        return Asked(order, begun(context), ramped_earlier(self, context))

    def edit(self, edit: Edit, order: Asked) -> dict[str, Any]:
        """Take the steps that are left to the decision."""
        from ._decision import Deciding

        return Deciding(edit, order.order, run=order.run, ramps=order.ramps).record()

    def _check_what_is_known(self) -> None:
        """Check the values that no template fills in later, while the DAG is parsed."""
        for name, known in (("decision", check.decision), ("enable", check.boolean), ("on_drift", ON_DRIFT)):
            if is_known(value := getattr(self, name)):
                known(name, value)
        if is_known(self.decision):
            _for(self.decision, self.variant, self.experiment_end_date)


def _for(decision: str, variant: Any, end_date: Any) -> tuple[str | None, str | None]:
    """Return the winner and the new end, as far as this decision needs them; templates pass as they are.

    :raises ValueError: one is missing, or none that the API takes.
    """
    if decision == "rollout":
        if variant is None:
            raise ValueError("variant is missing: a rollout needs the key of the winner")
        if variant == "off":
            raise ValueError("variant is 'off', which is no variant; to take it from everybody decide 'rollback'")
        return (check.name("variant", variant).strip() if is_known(variant) else variant), None
    if decision == "continue-running":
        if end_date is None:
            raise ValueError("experiment_end_date is missing: an experiment that continues needs its new end")
        return None, check.date_text("experiment_end_date", end_date) if is_known(end_date) else end_date
    return None, None
