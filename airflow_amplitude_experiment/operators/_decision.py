"""What a decide task does: read, plan the steps, say whom they move, take one after the other, read back each.

Apart from the operator because it is loaded when a task runs, not when a DAG is parsed. What is decided is decided in
:mod:`airflow_amplitude_experiment.rollout.decision`, without a request.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_amplitude_experiment.api import AmplitudeNotConfirmed, RolloutRefused
from airflow_amplitude_experiment.hooks.freeze import Freeze
from airflow_amplitude_experiment.hooks.moves import lets_in, own_rises
from airflow_amplitude_experiment.hooks.write import Write
from airflow_amplitude_experiment.rollout.decision import Order, Step, losing_for_a_moment, missing, plan, shifts
from airflow_amplitude_experiment.rollout.history import percentage_of, stopped_since
from airflow_amplitude_experiment.rollout.ramp import last_change
from airflow_amplitude_experiment.rollout.traffic import included

from ._base import CANNOT_HEAL
from ._edit import Edit
from ._run import Begun


class Deciding:
    """One task's decision on one experiment.

    :param run: the DAG run; ``None`` outside of one.
    :param ramps: the records of this run's earlier tasks that set a percentage, the oldest first.
    """

    def __init__(self, edit: Edit, order: Order, *, run: Begun | None, ramps: Sequence[Mapping[str, Any]] = ()) -> None:
        self.edit = edit
        self.order = order
        self.run = run
        self.ramps = ramps
        self.before = edit.found.rollout_percentage
        self.steps: tuple[Step, ...] | None = None
        self.done: list[Step] = []
        self.facts: dict[str, Any] = {}

    def record(self) -> dict[str, Any]:
        """Do what is left to the decision, and return the record."""
        self.edit.again_where_lost(self._decide)
        found, order, steps = self.edit.found, self.order, self.steps or ()
        if not self.edit.written:
            for step in steps:
                found = step.applied(found)  # what would stand, where the connection is read-only
        return self.edit.record(
            decision=order.decision,
            variant=order.variant if order.decision == "rollout" else None,
            decision_reason=order.reason,
            end_date=order.end_date if order.decision == "continue-running" else None,
            before=self.before,
            after=found.rollout_percentage,
            enabled=bool(found.enabled),
            steps=[str(step) for step in steps],
            **self.facts,
        )

    def _decide(self) -> None:
        """Take the steps that are left; after a lost write those that are left then."""
        again = self.steps is not None
        found = self._read() if again else self._completed()
        steps = plan(found, self.order, now=datetime.now(UTC))
        if self.steps is None:
            self.steps = steps
        self.done = [step for step in self.steps if step not in steps]
        if again and self.done:
            self.edit.written = True  # the answer was lost, the write was not
        if not steps:
            words = "done" if again else "stands already, nothing to do"
            self.edit.log.info("%s: decision %s %s", self.edit.name, self.order, words)
            return
        self._refuse_what_was_stopped(found, steps, again=again)
        self._check_rules(found, steps)
        if not again:
            self._tell(found, steps)
        if self._take(steps):
            self._confirm_whole()
            self.edit.log.info("%s: decision %s done", self.edit.name, self.order)

    # --- before the first write -----------------------------------------------------------------------------------

    def _refuse_what_was_stopped(self, found: Any, steps: Sequence[Step], *, again: bool) -> None:
        """Refuse to raise or enable what a person or a guard took down (law 9).

        What stands where this run's own ramps left it was not taken down, unless an earlier try of this task may have
        raised it from there. Else the versions are asked, except in the first try of a run that a person started just
        for this.
        """
        run, enables = self.run, any(step.fields.get("enabled") for step in steps)
        if run is None or not (enables or self.order.decision == "rollout"):
            return
        own = [each for each in self.ramps if (each.get("kind"), each.get("id")) == ("experiment", found.id)]
        left_at = {each.get("segment"): each.get("after", each.get("rollout_percentage")) for each in own}
        scopes = (None, *(each.name for each in found.target_segments or ()))
        for scope in scopes:
            if (percentage_of(found, scope) or 0) < (left_at.get(scope) or 0):
                self._refuse_stopped(scope, f"stands below the {left_at[scope]} % that this run raised it to")
        again = again or run.again
        if not enables:
            scopes = tuple(each for each in scopes if each not in left_at or (again and self._may_have_raised(each)))
        if not scopes or not (again or enables or not run.by_hand):
            return
        versions = self.edit.client.send(self.edit.calls.versions(found.id))
        for scope in scopes:
            ever = enables and not run.by_hand
            if how := stopped_since(versions, run.since, found, segment=scope, own=own, ever_switched_off=ever):
                self._refuse_stopped(scope, f"{how}. This run looks back to {run.since:%Y-%m-%dT%H:%MZ}")

    def _may_have_raised(self, segment: str | None) -> bool:
        """Whether an earlier try may have raised a segment, or all other users, who are raised as it is decided."""
        return segment is not None or self.edit.found.decision == self.order.decision

    def _refuse_stopped(self, segment: str | None, how: str) -> None:
        where = f", target segment {segment!r}," if segment else ""
        raise RolloutRefused(
            f"{self.edit.name}{where} {how}.{last_change(self.edit.found)} The decision {self.order} would undo "
            "somebody's stop. Nothing more was written. To decide all the same, trigger a new run by hand."
        )

    def _check_rules(self, found: Any, steps: Sequence[Step]) -> None:
        """Refuse now what a later step would be refused for: nothing is left half done."""
        client, freeze, stands = self.edit.client, Freeze.now(), found
        for step in steps:
            write = Write.of(step.call(self.edit.calls, found.id), dialect=client.dialect)
            if client.rules.limit_percentages or freeze.may_name(found.key):
                what = f"{write.in_words(found)}, {step}"
                rises = list(own_rises(write.function, write.arguments, stands))
                client.rules.check_rises(rises, what)
                freeze.check_rises(found.key, [*rises, *lets_in(write.function, write.arguments, stands)], what)
            stands = step.applied(stands)

    def _tell(self, found: Any, steps: Sequence[Step]) -> None:
        """Say whom the decision moves, and whom it does not reach, before anything is sent."""
        log, name, order = self.edit.log, self.edit.name, self.order
        people = shifts(found, steps)
        behind = "; of those whom its groups and prerequisites let through" if found.parent_dependencies else ""
        log.info("%s, decision %s: %s%s", name, order, "; ".join(map(str, people)), behind)
        self.facts["people"] = [each.as_json() for each in people]
        if order.decision == "rollback" and any(each.percentage for each in found.target_segments or ()):
            log.info("%s: its target segments keep their percentages, which count if somebody enables it again", name)
        if order.decision != "rollout":
            return
        if found.sticky_bucketing:
            log.warning(
                "%s has sticky bucketing. It is switched off first, but users who have a losing variant may keep it: "
                "Amplitude's documents contradict each other on that.",
                name,
            )
        lost = losing_for_a_moment(found, steps, str(order.variant))
        if lost and found.enabled and found.rollout_percentage:
            log.warning(
                "%s: Amplitude takes one weight at a time; %g %% of those in it lose %s between two of the writes, and "
                "get it again with the next.",
                name,
                lost,
                order.variant,
            )
        self.facts["included"] = self._included(found)

    def _included(self, found: Any) -> dict[str, dict[str, int]]:
        """Count who is forced into a losing variant, and stays there."""
        losers = [each.key for each in found.variants if each.key != self.order.variant]
        send, calls = self.edit.client.send, self.edit.calls
        users = {key: len(send(calls.users(found.id, key))) for key in losers}
        cohorts = {key: len(send(calls.cohorts(found.id, key))) for key in losers}
        if told := included(users, cohorts):
            self.edit.log.warning(
                "%s: included by name and not moved by the decision: %s. To take them out: "
                "AmplitudeSyncVariantUsersOperator and AmplitudeSyncVariantCohortsOperator.",
                self.edit.name,
                ", ".join(told),
            )
        return {key: {"users": users[key], "cohorts": cohorts[key]} for key in losers if users[key] or cohorts[key]}

    # --- writing --------------------------------------------------------------------------------------------------

    def _take(self, steps: Sequence[Step]) -> bool:
        """Send the steps one by one, reading back after each; false where the connection is read-only."""
        sent = True
        for number, step in enumerate(steps):
            call = step.call(self.edit.calls, self.edit.found.id)
            send = partial(self.edit.send, call, decision=self.order.decision)
            try:
                sent = self.edit.unless_read_only(send)
            except CANNOT_HEAL:
                self._say_where_it_ended(step, steps[number:])
                raise
            if sent:
                self._confirm(step, steps[number:])
                self.done.append(step)
                self.edit.log.info("%s: %s", self.edit.name, step)
        if not sent:
            would = "; ".join(map(str, steps))
            self.edit.log.info("%s: would take the steps: %s (read-only, not sent)", self.edit.name, would)
        return sent

    def _say_where_it_ended(self, step: Step, left: Sequence[Step]) -> None:
        """Say in the log what a refused step leaves behind; its error says why."""
        self.edit.log.error(
            "%s: the step %r was refused. Done: %s. Left: %s. If Amplitude wants an approval for it, make this change "
            "in the app; then clear this task: it goes on from what stands.",
            self.edit.name,
            str(step),
            _listed(self.done),
            _listed(left),
        )

    def _confirm(self, step: Step, left: Sequence[Step]) -> None:
        """Read a step back.

        :raises AirflowFailException: it was accepted and did not take; names the lock and what is left.
        """
        different: list[str] = []

        def remaining() -> list[str]:
            different[:] = step.left(self._read())
            return different

        try:
            self.edit.confirm(remaining)
        except AmplitudeNotConfirmed as error:
            # In full, which the text of an AmplitudeError is not: what is left is what a person needs.
            raise AirflowFailException(
                f"{type(error).__name__}: {self.edit.name} is waiting in Amplitude: {step} was accepted and did not "
                f"take ({'; '.join(different)}). Probably it needs an approval, and locks the experiment until that is "
                f"given or cancelled. Done: {_listed(self.done)}. Left: {_listed(left)}. Approve it in Amplitude, then "
                "clear this task: it goes on from what stands."
            ) from error

    def _confirm_whole(self) -> None:
        """Make sure that the last step left the earlier ones as they were: what it does by itself nobody says."""
        if missing(self.edit.found, self.order):
            self.edit.confirm(lambda: [str(step) for step in missing(self._read(), self.order)])

    # --- reading --------------------------------------------------------------------------------------------------

    def _read(self) -> Any:
        """Read the experiment again. Weights that only the variants show must not stay as they were read before."""
        shown = self.edit.found.as_json()
        shown.pop("rolloutWeights", None)
        self.edit.found = type(self.edit.found).model_validate(shown)
        self.edit.read()
        return self._completed()

    def _completed(self) -> Any:
        """Return the experiment with its variants and weights, which lists and details may not show."""
        edit, found = self.edit, self.edit.found
        if found.variants is None or found.rollout_weights is None:
            variants = edit.client.send(edit.calls.variants(found.id))
            weights = {each.key: each.rollout_weight or 0 for each in variants}
            told = {"variants": [each.as_json() for each in variants], "rolloutWeights": weights}
            edit.found = type(found).model_validate({**found.as_json(), **told})
        return edit.found


def _listed(steps: Sequence[Step]) -> str:
    return "; ".join(map(str, steps)) or "nothing"
