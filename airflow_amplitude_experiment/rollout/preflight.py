"""What stands against a rollout before its first write, and what a person should know of it.

Pure: findings from what was read. All refusals are collected, because somebody who mends one thing at a time starts a
rollout five times. Each says what is there and what to do about it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

from airflow_amplitude_experiment.api import RolloutRefused

from .briefing import briefing
from .durations import duration, in_words
from .guardrails import refuse_design
from .history import percentage_of
from .preview import REQUESTS_OF_A_RAISE
from .segments import segment_named, writable
from .traffic import Gate, gates, share_of, shares, weights_of

if TYPE_CHECKING:
    from airflow_amplitude_experiment.hooks.surroundings import Surroundings

    from .plan import RolloutPlan, Stage

REQUESTS_A_DAY = 100_000
A_DAY = timedelta(days=1)
LEAST_BETWEEN_LOOKS = timedelta(minutes=5)
"""How often a stage is looked at, at most, unless told otherwise."""

BANDIT = "multi-arm-bandit"
NOT_EDITABLE = ("web", "guide", "survey")
KIND_FIELDS = ("experimentType", "deliveryMethod", "kind", "flagType")
"""Where an answer may name a kind that the API does not edit; no documented field does for sure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """What a rollout is asked to do.

    :param start_at, rollback_to: as in ``staged_rollout``, rendered; ``rollback_to`` may be ``"off"``.
    :param again: a cleared run or a later try, in which stages may have been reached already.
    :param guardrails: of every stage, as dicts; ``stage_guardrails`` those of single ones, by percentage as text.
    :param check_every: seconds between looks; ``None`` for the default of each stage.
    """

    kind: Literal["flag", "experiment"]
    plan: RolloutPlan
    start_at: int | None = None
    rollback_to: int | Literal["off"] | None = None
    segment: str | None = None
    enable: bool = False
    again: bool = False
    guardrails: Sequence[Mapping[str, Any]] = ()
    stage_guardrails: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    check_every: float | None = None
    on_breach: str = "rollback"
    on_drift: str = "fail"

    @property
    def first(self) -> int:
        """The percentage that the first raise expects."""
        return self.target if self.start_at is None else self.start_at

    @property
    def target(self) -> int:
        """The percentage that a rollback leaves."""
        return int(self.rollback_to) if isinstance(self.rollback_to, int) else 0

    @property
    def stages(self) -> list[Stage]:
        """The stages that are ahead."""
        return [each for each in self.plan.stages if self.start_at is None or each.percentage >= self.start_at]

    @property
    def all_guardrails(self) -> list[Mapping[str, Any]]:
        """The guardrails of the whole rollout, which share its alpha."""
        own = (each for stage in self.plan.stages for each in self.stage_guardrails.get(str(stage.percentage), ()))
        return [*self.guardrails, *own]

    def guardrails_of(self, stage: Stage) -> list[Mapping[str, Any]]:
        """The guardrails that watch one stage. Nobody is left at 100 % to compare users without the flag with."""
        both = [*self.guardrails, *self.stage_guardrails.get(str(stage.percentage), ())]
        return [each for each in both if not (stage.percentage == 100 and each.get("design") == "rollout")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What preflight found.

    :param refusals: what stands against it, each with its way out.
    :param notes: what a person should know.
    :param weights: how the moved percentage is split over the variants.
    :param share: of all users, how many get past mutex and holdout groups; 1.0 is all.
    """

    refusals: list[str]
    notes: list[str]
    weights: dict[str, int | float]
    share: float


def preflight(found: Any, around: Surroundings, intent: Intent, *, now: datetime) -> Findings:
    """Find everything that stands against a rollout, and what should be said of it.

    :param found: the object as it was just read.
    :param around: what stands around it.
    """
    before = gates(found, around.mutexes, around.holdouts)
    segment_missing = _missing_segment(found, intent)
    weights = None if segment_missing else weights_of(found, around.variants, intent.segment)
    refusals = [
        *_about_the_object(found, around, intent, now),
        *(segment_missing or [*_about_standing(found, intent), *_about_segments(found, intent)]),
        *_about_weights(found, intent, weights),
        *_about_gates(before),
        *_about_watching(intent, weights),
    ]
    return Findings(
        refusals=refusals,
        notes=briefing(found, around, intent, before, weights or {}),
        weights=weights or {},
        share=share_of(before),
    )


def _about_the_object(found: Any, around: Surroundings, intent: Intent, now: datetime) -> Iterator[str]:
    if found.deleted:
        yield "it is archived. Restore it in Amplitude."
    if not found.enabled and not intent.enable:
        yield "it is disabled. Enable it in Amplitude, or pass enable=True to switch it on with the first write."
    if around.deployments is not None and not [each for each in around.deployments if not each.deleted]:
        archived = "only archived deployments" if around.deployments else "no deployment"
        yield f"it has {archived}, so nothing would be served. Attach that of the application which asks for it."
    if getattr(found, "experiment_type", None) == BANDIT and (found.enabled or intent.enable):
        yield (
            "it is a running bandit: Amplitude moves its weights itself, and its traffic must not be edited meanwhile. "
            "Leave the percentage to the app, or make it an A/B test before the rollout."
        )
    if kind := _not_editable(found):
        yield f"it is of the kind {kind!r}, which Amplitude's API does not edit (405). Roll it out in Amplitude."
    ends_at = getattr(found, "ends_at", None)
    if ends_at is not None and ends_at <= now:
        yield f"its end date has passed ({found.end_date}). Move the end date, or decide the experiment."
    if found.evaluation_mode == "local" and _bucketing_key(found, intent.segment) == "amplitude_id":
        yield (
            "it is evaluated locally and bucketed by amplitude_id, which SDKs don't know, so nobody would get it. "
            "Before it is ever served, bucket it by user_id or device_id, or evaluate it remotely."
        )
    sticky = getattr(found, "sticky_bucketing", False)
    if sticky and intent.on_breach == "rollback" and intent.rollback_to is None:
        yield (
            "it has sticky bucketing: lowering the percentage keeps everybody in who is in, and no target of a "
            "rollback is stated. State rollback_to='off' (nobody keeps it) or rollback_to=0 (nobody new gets it), or "
            "on_breach='off' or 'hold'."
        )


def _about_standing(found: Any, intent: Intent) -> Iterator[str]:
    stands, first, last = percentage_of(found, intent.segment), intent.first, intent.plan.percentages[-1]
    if stands is None:
        yield "its percentage is not shown. Look at the object in Amplitude."
    if stands is None or stands == first:
        return
    on_a_stage = stands > first and stands in intent.plan.percentages
    if stands == last and not intent.again:
        yield (
            f"it stands at {last} %, the last stage, so this rollout is already complete. To watch that stage once "
            f"more, trigger a run with start_at={last}; to roll out anew, set {first} % in Amplitude first."
        )
    elif (on_a_stage and (intent.again or intent.on_drift == "continue")) or (
        stands > first and intent.on_drift == "overwrite"
    ):
        if not found.enabled and intent.enable:
            yield (
                f"it is disabled at {stands} %, after this rollout's first write: enable=True does not undo that. To "
                f"go on, trigger a new run with start_at={stands}."
            )
    else:
        going_on = f"To go on from {stands} %, trigger a run with start_at={stands}. " if 0 < stands < last else ""
        yield (
            f"it stands at {stands} %, but this rollout begins at {first} %{_because(intent)}. {going_on}"
            f"To begin at {first} %, set that in Amplitude."
        )


def _because(intent: Intent) -> str:
    if intent.start_at is not None:
        return f" (start_at={intent.start_at})"
    return "" if intent.rollback_to is None else f" (rollback_to={intent.rollback_to})"


def _about_segments(found: Any, intent: Intent) -> Iterator[str]:
    for each in found.target_segments or ():
        if each.name == intent.segment:
            break
        if not each.conditions:
            ramped = "of all other users" if intent.segment is None else f"of segment {intent.segment!r}"
            yield (
                f"its target segment {each.name!r} has no conditions and catches everyone, so the percentage {ramped} "
                f"would do nothing. Ramp that segment instead (segment={each.name!r}), or remove it in Amplitude."
            )
    if intent.segment is None:
        return
    for each in found.target_segments:
        try:
            writable(found.key, each.as_json())
        except RolloutRefused as refusal:
            why = str(refusal).removeprefix(f"{found.key}: ").split(" All segments are replaced")[0]
            yield (
                f"its segments can't be written back: {why} All of them are replaced in one write, so targeting "
                "would be lost. Ramp the segment in Amplitude, or the percentage of all other users here."
            )


def _missing_segment(found: Any, intent: Intent) -> list[str]:
    if intent.segment is None:
        return []
    try:
        segment_named(found, intent.segment)
    except RolloutRefused as refusal:
        why = str(refusal).removeprefix(f"{found.key} has ").removesuffix(" Nothing was written.")
        return [f"it has {why} Correct segment=…, or leave it out."]
    return []


def _about_weights(found: Any, intent: Intent, weights: Mapping[str, float] | None) -> Iterator[str]:
    if weights is not None and not any(weights.values()):
        yield "all weights are 0, so no variant would be served. Set the weights in Amplitude before it is served."
    if intent.kind != "experiment":
        return
    scopes = {"all other users": (found.rollout_percentage, found.rollout_weights)}
    scopes |= {
        f"segment {each.name!r}": (each.percentage, each.rollout_weights) for each in found.target_segments or ()
    }
    moved = "all other users" if intent.segment is None else f"segment {intent.segment!r}"
    split = {
        name: shares(weights)
        for name, (percentage, weights) in scopes.items()
        if weights and any(weights.values()) and (percentage or name == moved)
    }
    if len({tuple(each.items()) for each in split.values()}) > 1:
        told = "; ".join(f"{name} {_split(each)}" for name, each in split.items())
        yield (
            f"its weights differ: {told}. Arms that are not split alike everywhere can't be compared. Give all of them "
            "the same weights before it is served."
        )


def _about_gates(before: Sequence[Gate]) -> Iterator[str]:
    if not share_of(before):
        names = " and ".join(each.name for each in before)
        verb = "let" if len(before) > 1 else "lets"
        yield f"{names} {verb} nobody through, so every percentage would be 0 % of users. Give it a slot with traffic."


def _about_watching(intent: Intent, weights: Mapping[str, float] | None) -> Iterator[str]:
    for stage in intent.stages:
        for each in intent.guardrails_of(stage):
            needed = _time_to_a_pass(each)
            if stage.watched and stage.watched < needed:
                yield (
                    f"stage {stage.percentage} % is watched for {in_words(stage.watched)}, which is shorter than "
                    f"settle + window of guardrail {each['name']!r}. Watch it for {in_words(needed)} or longer."
                )
    if (requests := _requests_a_day(intent)) > REQUESTS_A_DAY:
        yield (
            f"it would send about {requests:,.0f} requests a day, and Amplitude allows {REQUESTS_A_DAY:,} a project. "
            "Look less often (check_every), or read fewer charts."
        )
    if weights is not None and any(weights.values()):
        yield from refuse_design(intent.all_guardrails, weights)


def _time_to_a_pass(guardrail: Mapping[str, Any]) -> timedelta:
    return sum(
        (duration(given, name) for name in ("settle", "window") if (given := guardrail.get(name)) is not None),
        start=timedelta(0),
    )


def _requests_a_day(intent: Intent) -> float:
    """Return how many requests the busiest day takes: a chart is read at each look, a stage costs a few."""
    busiest = 0.0
    for stage in intent.stages:
        charts = sum(each["type"] == "chart" for each in intent.guardrails_of(stage))
        every = intent.check_every or max(LEAST_BETWEEN_LOOKS, stage.watched / 12).total_seconds()
        busiest = max(busiest, charts * min(stage.watched, A_DAY).total_seconds() / every)
    return busiest + REQUESTS_OF_A_RAISE * len(intent.stages)


def _not_editable(found: Any) -> str | None:
    shown = found.as_json()
    kinds = [value for name in KIND_FIELDS if isinstance(value := shown.get(name), str)]
    return next((each for each in kinds if any(word in each.lower() for word in NOT_EDITABLE)), None)


def _bucketing_key(found: Any, segment: str | None) -> str | None:
    own = next((each.bucketing_key for each in found.target_segments or () if segment and each.name == segment), None)
    key: str | None = own or found.bucketing_key
    return key


def _split(weights: Mapping[str, float]) -> str:
    return ", ".join(f"{key} {share * 100:.4g} %" for key, share in weights.items())
