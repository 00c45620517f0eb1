"""What a person should know of a rollout before its first write.

Pure. Apart from the preflight, whose findings stop a rollout; nothing here does. Counts only: who is included is
nobody's business in a log.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from .durations import duration
from .history import percentage_of
from .traffic import Gate, in_variants, included, of_all, prerequisites, served_beside, share_of, shares

if TYPE_CHECKING:
    from airflow_amplitude_experiment.hooks.rules import Rules
    from airflow_amplitude_experiment.hooks.surroundings import Surroundings

    from .preflight import Intent

COHORTS_LAG = timedelta(hours=2)


def briefing(
    found: Any, around: Surroundings, intent: Intent, before: Sequence[Gate], weights: Mapping[str, float]
) -> list[str]:
    """Return what should be said, most important first.

    :param before: the gates before the object.
    :param weights: how the moved percentage is split over the variants.
    """
    return [
        *_where_it_goes_on(found, intent),
        *_what_a_percentage_is(found, around, intent, before, weights),
        *_who_is_served_already(found, around, intent, before),
        *_what_is_watched(found, around, intent),
    ]


def of_the_connection(rules: Rules, intent: Intent, *, reason: str | None) -> Iterator[str]:
    """Say what a connection's rules will stop on the way, days before they do.

    :param reason: why the rollout's tasks write.
    """
    if rules.mode == "read_only":
        yield "The connection is read-only: nothing will be written."
    stands = intent.first
    for each in (stage.percentage for stage in intent.stages):
        if rules.max_percentage is not None and each > rules.max_percentage:
            yield f"The connection's rule max_percentage={rules.max_percentage} will refuse stage {each} %."
        if rules.max_step is not None and each - stands > rules.max_step:
            yield f"The connection's rule max_step={rules.max_step} will refuse the step from {stands} to {each} %."
        stands = each
    if rules.require_reason and not (reason or "").strip():
        yield "The connection's rule require_reason will refuse every raise: no reason is given."


def _where_it_goes_on(found: Any, intent: Intent) -> Iterator[str]:
    stands = percentage_of(found, intent.segment)
    if stands is not None and stands > intent.first:
        why = "reached before" if intent.again else f"on_drift={intent.on_drift!r}"
        yield f"It stands at {stands} %, above the {intent.first} % at which this rollout begins ({why})."
    if not found.enabled and intent.enable:
        yield "It is disabled; the first write switches it on."


def _what_a_percentage_is(
    found: Any, around: Surroundings, intent: Intent, before: Sequence[Gate], weights: Mapping[str, float]
) -> Iterator[str]:
    percentages = [each.percentage for each in intent.stages]
    if found.bucketing_unit and found.bucketing_unit.lower() != "user":
        yield (
            f"It is bucketed by {found.bucketing_unit!r}: percentages are of accounts of that kind, not of people, and "
            "all people of an account get it together."
        )
    if before:
        names = " and ".join(each.name for each in before)
        told = ", ".join(of_all(each, share_of(before)) for each in percentages)
        verb = "let" if len(before) > 1 else "lets"
        yield f"{names[0].upper()}{names[1:]} {verb} {share_of(before) * 100:.6g} % of users through: {told}."
    if len(shares(weights)) > 1:
        yield f"Weights: {', '.join(in_variants(each, weights) for each in percentages)}."
    others = prerequisites(found, around.mutexes, around.holdouts)
    if others and around.groups_known:
        told = ", ".join(f"{each} ({' or '.join(variants)})" for each, variants in others.items())
        yield f"It also depends on other objects, and only users whom they give this variant can get it: {told}."
    elif others:
        yield "It depends on groups or flags that this API doesn't show: a percentage here is of fewer users than all."


def _who_is_served_already(found: Any, around: Surroundings, intent: Intent, before: Sequence[Gate]) -> Iterator[str]:
    beside = list(served_beside(found, intent.segment))
    people = included(around.users, around.cohorts)
    served = "Served already" if found.enabled else "Served as soon as it is enabled"
    if beside:
        yield f"{served}, whatever this rollout's percentage: {', '.join(beside)}."
    if people:
        yield f"{served} by inclusion: {'; '.join(people)}."
    if people and before:
        yield (
            "Inclusions don't overcome mutex and holdout groups in local evaluation."
            if found.evaluation_mode == "local"
            else "Whether inclusions overcome mutex and holdout groups in remote evaluation is not documented."
        )
    if (beside or people) and intent.on_breach == "rollback" and intent.rollback_to != "off":
        yield "A rollback to a percentage leaves them served; rollback_to='off' takes it from them too."
    if getattr(found, "sticky_bucketing", False) and intent.rollback_to != "off" and intent.on_breach == "rollback":
        yield f"Sticky bucketing: after a rollback to {intent.target} % those who have a variant keep it."


def _what_is_watched(found: Any, around: Surroundings, intent: Intent) -> Iterator[str]:
    guardrails = intent.all_guardrails
    if intent.on_breach == "hold":
        yield "on_breach='hold': a breach stops the rollout where it stands, and takes it from nobody."
    if (
        intent.stages
        and intent.stages[-1].percentage == 100
        and any(each.get("design") == "rollout" for each in guardrails)
    ):
        yield "At 100 % nobody is left to compare with: thresholds only. To go on comparing, end at 95 %."
    conditions = [each for segment in found.target_segments or () for each in segment.conditions or ()]
    cohorts = any(around.cohorts.values()) or any(each.type != "property" for each in conditions)
    hasty = [
        repr(each["name"])
        for each in guardrails
        if each.get("settle") is not None and duration(each["settle"], "settle") < COHORTS_LAG
    ]
    if cohorts and hasty:
        yield f"Cohorts reach every server after up to 2 hours; settle is shorter in guardrail {', '.join(hasty)}."
