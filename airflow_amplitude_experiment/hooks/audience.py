"""Who gets what from an object, before and after a call, and where that is a rise. Pure: nothing is read or sent.

Amplitude tries an object's target segments from top to bottom; the first whose conditions a user meets decides,
and everybody else falls to the rollout. So an audience is a list of scopes, the rollout last. A user's share in
a scope is its percentage, split over the variants by weight.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from airflow_amplitude_experiment.api import RolloutRefused

ROLLOUT = "the rollout"


@dataclass(frozen=True, slots=True)
class Scope:
    """Users who are bucketed together.

    :param conditions: what they meet; ``None`` for those who match no segment.
    :param percentage: share of them that gets any variant.
    :param weights: how that share is split; empty where it is not known.
    """

    name: str
    conditions: Any
    percentage: float
    weights: Mapping[str, float] = field(default_factory=dict)

    def shares(self) -> dict[str, float]:
        """Return the percentage of these users who get any variant (``""``), and who get each one."""
        total = sum(self.weights.values())
        each = {variant: self.percentage * weight / total for variant, weight in self.weights.items()} if total else {}
        return {"": self.percentage, **each}


Audience = tuple[Scope, ...]


@dataclass(frozen=True, slots=True)
class Rise:
    """Users of whom more get a variant than before, in percent."""

    who: str
    before: float
    after: float

    def __str__(self) -> str:
        return f"{self.who} would rise from {self.before:g} % to {self.after:g} %"


def rises(before: Audience, after: Audience) -> Iterator[Rise]:
    """Yield every scope, and every variant in it, that more users get than before.

    As long as the segments above are the same ones, a scope's users stood in the same scope before. From the
    first segment that differs on they may have stood in any of the later ones, so the lowest share counts.
    """
    alike = 0
    while alike < min(len(before), len(after)) and before[alike].conditions == after[alike].conditions:
        alike += 1
    for position, scope in enumerate(after):
        origins = [before[position]] if position < alike else before[alike:]
        for variant, share in scope.shares().items():
            stood = min(origin.shares().get(variant, 0.0) for origin in origins)
            if share > stood + 1e-9:
                who = f"variant {variant!r} in {scope.name}" if variant else scope.name
                yield Rise(who, round(stood, 6), round(share, 6))


def standing(found: Any) -> Audience:
    """Return an object's audience as it was read, whether or not the object is switched on.

    :raises RolloutRefused: the answer does not show a percentage.
    """
    scopes = [
        Scope(_named(each.name), _conditions(each), _shown(each.percentage, found), each.rollout_weights or {})
        for each in found.target_segments or ()
    ]
    return (*scopes, Scope(ROLLOUT, None, _shown(found.rollout_percentage, found), found.rollout_weights or {}))


def serves(found: Any) -> bool:
    """Whether the object gives anybody anything: switched on and not archived."""
    return bool(found.enabled) and not found.deleted


def scaled(audience: Audience, percent: float) -> Audience:
    """Return the audience as it is where only ``percent`` of all users get to the object at all."""
    return tuple(replace(scope, percentage=scope.percentage * percent / 100) for scope in audience)


def created(arguments: Mapping[str, Any]) -> Audience:
    """Return the audience of an object that a create describes; it starts disabled, its segments are in place."""
    return (*_written_segments(arguments), Scope(ROLLOUT, None, 0, arguments.get("rollout_weights", {})))


def audiences(function: str, arguments: Mapping[str, Any], found: Any) -> tuple[Audience, Audience]:
    """Return the audience before and after a call on one flag or experiment.

    An object that is switched off or archived reaches nobody, so switching it on is a rise from 0. A percentage
    that a call sets counts even while the object is off, because somebody may switch it on in the app.
    """
    stands = standing(found)
    if function == "update":
        return _updated(arguments, found, stands)
    before = stands if serves(found) else scaled(stands, 0)
    after = tuple(replace(scope, weights=_weights(function, arguments, scope)) for scope in before)
    if function == "add_deployments" and set(arguments["ids"]) - set(found.deployments or ()):
        before = scaled(stands, 0)  # the users of an application that did not serve it
    if function == "add_cohorts":  # nobody tells how many users a cohort holds, and all of them get the variant
        cohort = Scope("whoever is in the cohorts", arguments["ids"], 100)
        before, after = (replace(cohort, percentage=0), *before), (cohort, *after)
    return before, after


def _updated(arguments: Mapping[str, Any], found: Any, stands: Audience) -> tuple[Audience, Audience]:
    if arguments.get("decision") == "rollout":  # what it sets beside the label, Amplitude does not say
        arguments = {"rollout_percentage": 100, **arguments}
    segments, rest = stands[:-1], stands[-1]
    if "target_segments" in arguments:
        segments = _written_segments(arguments)
    if "rollout_percentage" in arguments:
        rest = replace(rest, percentage=arguments["rollout_percentage"])
    enabled = arguments.get("enabled", bool(found.enabled))
    archived = arguments.get("archive", bool(found.deleted))
    if archived or not enabled:  # nobody gets anything, so only what is set just now counts
        segments = segments if "target_segments" in arguments else scaled(segments, 0)
        rest = rest if "rollout_percentage" in arguments else replace(rest, percentage=0)
    return stands if serves(found) else scaled(stands, 0), (*segments, rest)


def _weights(function: str, arguments: Mapping[str, Any], scope: Scope) -> Mapping[str, float]:
    """Return a scope's weights after a call on variants. Only the rollout's can be set by one."""
    weights, is_rollout = dict(scope.weights), scope.conditions is None
    if function == "set_rollout_weights" and is_rollout:
        return {**dict.fromkeys(weights, 0), **arguments["rollout_weights"]}
    if function == "create_variant" and is_rollout:
        # What weight a new variant gets unless told, Amplitude does not say; as much as the heaviest may be.
        weights[arguments["key"]] = arguments.get("rollout_weight", max(weights.values(), default=1))
    if function == "delete_variant":
        weights.pop(arguments["variant_key"], None)
    if function == "update_variant":
        old = arguments["variant_key"]
        new = arguments.get("key", old)
        weights = {new if key == old else key: weight for key, weight in weights.items()}
        if "rollout_weight" in arguments and is_rollout:
            weights[new] = arguments["rollout_weight"]
    return weights


def _named(segment: str | None) -> str:
    return f"segment {segment!r}"


def _conditions(segment: Any) -> list[Any]:
    return [each.as_json() for each in segment.conditions or ()]


def _shown(percentage: float | None, found: Any) -> float:
    if percentage is None:
        raise RolloutRefused(
            f"{found.key}: Amplitude does not show every percentage of it, so the connection's limits can't be "
            "checked. Nothing was sent. Change it in Amplitude."
        )
    return percentage


def _written_segments(arguments: Mapping[str, Any]) -> Audience:
    return tuple(
        Scope(_named(each["name"]), each["conditions"], each["percentage"], each["rolloutWeights"])
        for each in arguments.get("target_segments", ())
    )
