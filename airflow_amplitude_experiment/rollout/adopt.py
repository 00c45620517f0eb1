"""Whether a task may take an object that is there for its own, and how an update brings it in line.

Pure: nothing is asked, nothing is sent. An update adds and changes, it never takes away: what is there beyond the
description is refused, not removed. It never touches the switch and the percentages, which belong to the ramps.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from airflow_amplitude_experiment.api import Call, RolloutRefused

from .description import Difference, Wanted, moment_of, second_call
from .ramp import last_change
from .segments import rewritten
from .weights import changed_weights

IfExists = Literal["adopt", "update", "fail"]
THE_RAMPS = frozenset({"enabled", "rollout_percentage"})


def is_as_posted(found: Any) -> bool:
    """Whether an object may stand as its creation left it: disabled, at 0 %. Only its versions say for sure."""
    return found.enabled is False and found.rollout_percentage == 0


def created_since(found: Any, moment: datetime | None) -> bool | None:
    """Whether an object was created since a moment; ``None`` where that can't be told."""
    if moment is None or (created := moment_of(found.created_at)) is None:
        return None
    if len(found.created_at) == len("2026-01-31"):
        return created.date() >= moment.astimezone(UTC).date()
    whole_second = created.microsecond == 0  # written without a fraction, it may be up to a second later
    return created >= (moment.replace(microsecond=0) if whole_second else moment)


def is_live(found: Any) -> bool:
    """Whether an object reaches people: enabled, and a percentage of it or of a segment above 0."""
    percentages = [found.rollout_percentage, *(each.percentage for each in found.target_segments or ())]
    return found.enabled is not False and any(each is None or each > 0 for each in percentages)


def was_served(found: Any, versions: Sequence[Any]) -> bool:
    """Whether an object was ever enabled; where a version does not say, it counts as served."""
    return found.enabled is not False or any(version.flag_config.enabled is not False for version in versions)


def refuse_to_take_over(
    wanted: Wanted,
    found: Any,
    different: Sequence[Difference],
    *,
    if_exists: IfExists,
    adopt_live: bool = False,
    own: bool = False,
) -> None:
    """Refuse an object that this task may not take for its own.

    :param different: what stands otherwise than described.
    :param adopt_live: the caller means to go on with an object that people get now.
    :param own: this run created it.
    :raises RolloutRefused: everything that stands against it, in one text.
    """
    if if_exists == "fail" and not own:
        way_out = "Use another key, or if_exists='adopt' to go on with the one that is there."
        raise refusal(wanted, found, "exists already, and if_exists='fail'.", way_out)
    reasons: list[str] = []
    advice: list[str] = []
    if different and if_exists != "update":
        reasons += [str(each) for each in different]
        advice.append("Describe it as it is, use another key, or pass if_exists='update' to bring it in line.")
    if is_live(found) and not own and not adopt_live:
        reasons.append(f"it is enabled at {found.rollout_percentage} %, so people get it now")
        advice.append("If this task is meant to go on with a live object, pass adopt_live=True.")
    if reasons:
        raise refusal(wanted, found, f"can't be adopted: {'; '.join(reasons)}.", " ".join(advice))


@dataclass(frozen=True, slots=True)
class Update:
    """What brings an object in line: calls on its variants, one PATCH, deployments to attach.

    :param arguments: the operator's arguments that differ.
    :param left_alone: arguments that may differ, but Amplitude does not show what is there.
    """

    patch: dict[str, Any] = field(default_factory=dict)
    new_variants: list[dict[str, Any]] = field(default_factory=list)
    variants: dict[str, dict[str, Any]] = field(default_factory=dict)
    deployments: list[str] = field(default_factory=list)
    arguments: tuple[str, ...] = ()
    left_alone: tuple[str, ...] = ()

    def calls(self, calls: Any, object_id: str) -> list[Call[Any]]:
        """Return the calls, in the order in which to send them.

        :param calls: the namespace of the object's kind.
        """
        return [
            *(calls.create_variant(object_id, **variant) for variant in self.new_variants),
            *(calls.update_variant(object_id, key, **changes) for key, changes in self.variants.items()),
            *([calls.update(object_id, **self.patch)] if self.patch else []),
            *([calls.add_deployments(object_id, self.deployments)] if self.deployments else []),
        ]


def update(wanted: Wanted, found: Any, different: Sequence[Difference], *, served: bool) -> Update:
    """Decide what an update sends: only what differs, and never the switch or a percentage.

    :param different: from :func:`.description.differences`.
    :param served: whether the object was ever enabled.
    :raises RolloutRefused: everything that can't be brought in line, in one text.
    """
    later = changes_of_second_call(wanted, found)
    changes = [*different, *(each for each in later if each.shown)]
    variants = {each["key"] for each in wanted.post.get("variants", ())} | set(found.rollout_weights or ())
    if obstacles := [
        f"{each} ({why})" for each in changes if (why := _obstacle(each, served=served, variants=variants))
    ]:
        what = f"can't be brought in line by an update: {'; '.join(obstacles)}."
        raise refusal(wanted, found, what, "Describe it as it is, change it in Amplitude, or use another key.")
    arguments = {each.argument for each in changes}
    described = {**wanted.post, **wanted.patch}
    patch = {name: described[name] for name in sorted(arguments - {"variants", "rollout_weights", "deployments"})}
    if "tags" in patch:
        patch["tags"] = list(dict.fromkeys([*(found.tags or ()), *patch["tags"]]))
    if "target_segments" in patch:
        patch["target_segments"] = rewritten(found, wanted.post["target_segments"])
    missing = [each for each in wanted.post.get("deployments", ()) if each not in (found.deployments or ())]
    return Update(
        patch=patch,
        new_variants=_new_variants(wanted, changes),
        variants=_changed_variants(wanted, found, changes),
        deployments=missing,
        arguments=tuple(sorted(arguments)),
        left_alone=tuple(each.name for each in later if not each.shown),
    )


def changes_of_second_call(wanted: Wanted, found: Any) -> list[Difference]:
    """Return what an update may have to do with the fields of the second call. Tags are added to those there."""
    later = [each for each in second_call(wanted, found) if each.name not in THE_RAMPS]
    return [each for each in later if not (each.name == "tags" and each.shown and _within(each.given, each.there))]


def refusal(wanted: Wanted, found: Any, what: str, advice: str) -> RolloutRefused:
    """Return the refusal of an object that is there: what, who changed it last, what to do."""
    where = f"id {found.id}, project {found.project_id}"
    return RolloutRefused(f"{wanted} ({where}) {what}{last_change(found)} Nothing was written. {advice}")


def _obstacle(difference: Difference, *, served: bool, variants: Collection[str]) -> str:
    """Say why an update can't bring a difference in line; empty where it can."""
    if not difference.shown:
        return "what isn't shown can't be compared"
    if difference.name == "segments.percentage":
        return "a segment's percentage is moved by AmplitudeRampRolloutOperator(segment=…) only"
    if difference.name == "segments.names" and any(len(set(each)) < len(each) for each in _both(difference)):
        return "two segments have the same name"
    if difference.name in ("segments.names", "variants.keys", "deployments") and not _within(*_both(difference)[::-1]):
        return "an update takes nothing away"
    if difference.name == "rollout_weights" and not _within(difference.given, variants):
        return "it names a variant that is neither there nor described"
    if difference.moves_users and served:
        return "it was enabled before, and this moves users between variants"
    return ""


def _both(difference: Difference) -> tuple[list[Any], list[Any]]:
    return list(difference.given), list(difference.there or ())


def _within(some: Collection[Any], more: Collection[Any] | None) -> bool:
    return {str(each) for each in some} <= {str(each) for each in more or ()}


def _new_variants(wanted: Wanted, changes: Sequence[Difference]) -> list[dict[str, Any]]:
    there = [key for each in changes if each.name == "variants.keys" for key in each.there]
    if not any(each.name == "variants.keys" for each in changes):
        return []
    weights = wanted.post.get("rollout_weights", {})
    return [
        {**variant, **({"rollout_weight": weights[variant["key"]]} if variant["key"] in weights else {})}
        for variant in wanted.post["variants"]
        if variant["key"] not in there
    ]


def _changed_variants(wanted: Wanted, found: Any, changes: Sequence[Difference]) -> dict[str, dict[str, Any]]:
    """Return the changes of each variant that is there."""
    changed: dict[str, dict[str, Any]] = {}
    if any(each.name == "rollout_weights" for each in changes):
        old, new = found.rollout_weights or {}, wanted.post["rollout_weights"]
        for key, weight in changed_weights(old, {each: new.get(each, 0) for each in old}).items():
            changed[key] = {"rollout_weight": weight}
    for each in changes:
        if each.name.startswith("variants.") and each.of:
            changed.setdefault(each.of, {})[each.name.removeprefix("variants.")] = each.given
    return changed
