"""The calls on experiments and on flags.

Amplitude keeps both as one kind of object, so each call is described once, for both. Every function returns a
:class:`~airflow_amplitude_experiment.api.Call` and sends nothing; a client sends it. Path parts are
positional, everything else is a keyword: the API's fields in snake_case, percentages whole from 0 to 100,
moments ISO 8601 in UTC.

Source: Amplitude's "Experiment Management API", pages "Experiments" and "Flags" (57 current operations) and
the older beta (34).
"""

# Annotations are evaluated here: the TypedDicts carry the checks that run on them.
from collections.abc import Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING, Annotated, Any, Generic, Literal, Required, TypedDict, TypeVar, Unpack

from . import _checks as check
from ._call import Call, Calls, endpoint
from ._checks import WrongValue

if TYPE_CHECKING:
    from .models import Created, Deployment, Experiment, Flag, Page, Variant, Version

    ObjectT = TypeVar("ObjectT", Flag, Experiment)
else:
    ObjectT = TypeVar("ObjectT")

Id = str | int
Weights = Mapping[str, int]
Json = Mapping[str, Any]
Moment = str | date


ONE = "/{kind}/{id}"
VARIANT = "/{kind}/{id}/variants/{variant_key}"
NEW_IN_V1 = frozenset({"target_segments", "archive", "tags", "decision", "decision_reason", "rolled_out_variant"})
WEIGHTS_ON_V1 = (
    "use experiments.update_variant(id, variant_key, rollout_weight=...), one variant at a time, "
    "while the experiment is disabled or at 0 %"
)


class ListFilter(TypedDict, total=False):
    """What a list of objects can be narrowed by."""

    key: Annotated[str, check.name]
    project_id: Annotated[Id, check.identifier]
    include_archived: Annotated[bool, check.boolean]
    limit: Annotated[int, check.page_size]
    cursor: Annotated[Id, check.identifier]


class FlagCreate(TypedDict, total=False):
    """Fields of a new flag. It starts disabled at 0 %; ``update`` sets the rest."""

    project_id: Required[Annotated[Id, check.identifier]]
    key: Required[Annotated[str, check.name]]
    name: Annotated[str, check.text]
    description: Annotated[str, check.text]
    variants: Annotated[Sequence[Json], check.variants]
    bucketing_key: Annotated[str, check.name]
    rollout_weights: Annotated[Weights, check.weights]
    target_segments: Annotated[Sequence[Json], check.segments]
    deployments: Annotated[Sequence[Id], check.identifiers]
    evaluation_mode: Annotated[Literal["local", "remote"], check.evaluation_mode]
    allow_local_amplitude_id: Annotated[bool, check.boolean]


class ExperimentCreate(FlagCreate, total=False):
    """Fields of a new experiment."""

    experiment_type: Annotated[Literal["a-b-test", "multi-arm-bandit"], check.experiment_type]


class FlagPatch(TypedDict, total=False):
    """Fields of a flag that can be changed. Lists replace the whole list that is there."""

    name: Annotated[str, check.text]
    description: Annotated[str, check.text]
    bucketing_key: Annotated[str, check.name]
    bucketing_salt: Annotated[str, check.name]
    bucketing_unit: Annotated[str, check.name]
    evaluation_mode: Annotated[Literal["local", "remote"], check.evaluation_mode]
    rollout_percentage: Annotated[int, check.percent]
    target_segments: Annotated[Sequence[Json], check.segments]
    enabled: Annotated[bool, check.boolean]
    archive: Annotated[bool, check.boolean]
    tags: Annotated[Sequence[str], check.tags]
    allow_local_amplitude_id: Annotated[bool, check.boolean]


class ExperimentPatch(FlagPatch, total=False):
    """Fields of an experiment that can be changed."""

    experiment_type: Annotated[Literal["a-b-test", "multi-arm-bandit"], check.experiment_type]
    sticky_bucketing: Annotated[bool, check.boolean]
    start_date: Annotated[Moment, check.date_text]
    end_date: Annotated[Moment | None, check.date_or_none]
    exposure_event: Annotated[Json | None, check.exposure_event]
    decision: Annotated[Literal["rollout", "rollback", "continue-running"], check.decision]
    decision_reason: Annotated[str, check.text]
    rolled_out_variant: Annotated[str, check.name]


class RolloutWeights(TypedDict):
    """The weights of all variants."""

    rollout_weights: Annotated[Weights, check.weights]


class VariantFields(TypedDict, total=False):
    """What a variant has beside its key. A new ``payload`` replaces the old one whole."""

    name: Annotated[str, check.text]
    description: Annotated[str, check.text]
    payload: Annotated[Any, check.payload]
    rollout_weight: Annotated[int, check.weight]


class VariantCreate(VariantFields, total=False):
    """Fields of a new variant."""

    key: Required[Annotated[str, check.variant_key]]


class VariantPatch(VariantFields, total=False):
    """Fields of a variant that can be changed; a new ``key`` renames it."""

    key: Annotated[str, check.variant_key]


def _settled_create(default_variants: tuple[str, ...]) -> Any:
    """Say out loud what the API leaves open: variants, weights, mode and bucketing (E15, E17, E22)."""

    def settle(values: dict[str, Any]) -> dict[str, Any]:
        values.setdefault("variants", [{"key": key} for key in default_variants])
        keys = [variant["key"] for variant in values["variants"]]
        if len(keys) != len(set(keys)):
            raise WrongValue(f"variants {check.short(keys)} name the same variant twice")
        weights = values.setdefault("rollout_weights", dict.fromkeys(keys, 1))
        if strangers := sorted(weights.keys() - set(keys)):
            raise WrongValue(f"rollout_weights names {strangers[0]!r}, which is not a variant; there are {keys}")
        values.setdefault("evaluation_mode", "remote")
        local = values["evaluation_mode"] == "local"
        values.setdefault("bucketing_key", "user_id" if local else "amplitude_id")
        return check.refuse_local_amplitude_id(values)

    return settle


class ObjectCalls(Calls, Generic[ObjectT]):
    """The calls that experiments and flags share."""

    @endpoint("GET", "/{kind}", "page", beta="/{kind}/list", fields=ListFilter)
    def list(self, **filters: Unpack[ListFilter]) -> "Call[Page[ObjectT]]":
        """List the objects that the key can see, newest first, at most 1000 a page.

        ``client.iterate(…)`` follows the pages. ``key`` and ``project_id`` compare exactly.
        """
        return self._call("list", **filters)

    @endpoint("GET", ONE, "object")
    def get(self, id: Id) -> Call[ObjectT]:
        """Read one object by its id (not its key)."""
        return self._call("get", id=id)

    @endpoint("GET", f"{ONE}/versions", "array", model="Version")
    def versions(self, id: Id) -> "Call[Sequence[Version]]":
        """List every version of one object, newest first."""
        return self._call("versions", id=id)

    @endpoint("GET", f"{ONE}/versions/{{version}}", "object", model="Version")
    def version(self, id: Id, version: Id) -> "Call[Version]":
        """Read one version of one object; ``version`` is its number."""
        return self._call("version", id=id, version=version)

    @endpoint("GET", f"{ONE}/variants", "array", model="Variant")
    def variants(self, id: Id) -> "Call[Sequence[Variant]]":
        """List the variants of one object, with payloads and weights."""
        return self._call("variants", id=id)

    @endpoint("GET", VARIANT, "object", model="Variant")
    def variant(self, id: Id, variant_key: str) -> "Call[Variant]":
        """Read one variant."""
        return self._call("variant", id=id, variant_key=variant_key)

    @endpoint("POST", f"{ONE}/variants", "ok", fields=VariantCreate, repeat="never", reach="people")
    def create_variant(self, id: Id, **fields: Unpack[VariantCreate]) -> Call[None]:
        """Add a variant; ``key`` is required. Never repeated blindly. Moves people on a live object."""
        return self._call("create_variant", id=id, **fields)

    @endpoint("PATCH", VARIANT, "ok", fields=VariantPatch, repeat="unless it moves people", reach="people")
    def update_variant(self, id: Id, variant_key: str, **fields: Unpack[VariantPatch]) -> Call[None]:
        """Change a variant. A new weight moves people between variants on a live object."""
        return self._call("update_variant", id=id, variant_key=variant_key, **fields)

    @endpoint("DELETE", VARIANT, "ok", repeat="gone is done", reach="people")
    def delete_variant(self, id: Id, variant_key: str) -> Call[None]:
        """Remove a variant."""
        return self._call("delete_variant", id=id, variant_key=variant_key)

    @endpoint("GET", f"{VARIANT}/users", "ids")
    def users(self, id: Id, variant_key: str) -> Call[Sequence[str]]:
        """List the user and device ids that are included in a variant."""
        return self._call("users", id=id, variant_key=variant_key)

    @endpoint("POST", f"{VARIANT}/users", "ok", ids=check.people, wrap="inclusions", repeat="never", reach="people")
    def add_users(self, id: Id, variant_key: str, ids: Sequence[Id]) -> Call[None]:
        """Include users or devices in a variant: 1 to 2000 ids, 2000 a variant in all. Never repeated blindly."""
        return self._call("add_users", id=id, variant_key=variant_key, ids=ids)

    @endpoint("DELETE", f"{VARIANT}/users/{{user_index}}", "ok", repeat="never", reach="people")
    def remove_user_at(self, id: Id, variant_key: str, user_index: int) -> Call[None]:
        """Remove one inclusion by its position, counted from 0. Positions shift: prefer ``remove_users``."""
        return self._call("remove_user_at", id=id, variant_key=variant_key, user_index=user_index)

    @endpoint(
        "DELETE", f"{VARIANT}/bulk-delete-users", "ok", beta=None,
        ids=check.people_removed, wrap="users", reach="people",
    )  # fmt: skip
    def remove_users(self, id: Id, variant_key: str, ids: Sequence[Id]) -> Call[None]:
        """Remove 1 to 100 users or devices from a variant."""
        return self._call("remove_users", id=id, variant_key=variant_key, ids=ids)

    @endpoint("DELETE", f"{VARIANT}/users", "ok", reach="people")
    def remove_all_users(self, id: Id, variant_key: str) -> Call[None]:
        """Remove every user and device from a variant."""
        return self._call("remove_all_users", id=id, variant_key=variant_key)

    @endpoint("GET", f"{VARIANT}/cohorts", "ids", beta=None)
    def cohorts(self, id: Id, variant_key: str) -> Call[Sequence[str]]:
        """List the cohort ids that are included in a variant."""
        return self._call("cohorts", id=id, variant_key=variant_key)

    @endpoint(
        "POST", f"{VARIANT}/cohorts", "ok", beta=None,
        ids=check.cohorts, wrap="inclusions", repeat="never", reach="people",
    )  # fmt: skip
    def add_cohorts(self, id: Id, variant_key: str, ids: Sequence[Id]) -> Call[None]:
        """Include cohorts in a variant. Never repeated blindly."""
        return self._call("add_cohorts", id=id, variant_key=variant_key, ids=ids)

    @endpoint(
        "DELETE", f"{VARIANT}/bulk-delete-cohorts", "ok", beta=None,
        ids=check.cohorts_removed, wrap="users", reach="people",
    )  # fmt: skip
    def remove_cohorts(self, id: Id, variant_key: str, ids: Sequence[Id]) -> Call[None]:
        """Remove 1 to 100 cohorts from a variant; they travel under the name ``users`` (C3)."""
        return self._call("remove_cohorts", id=id, variant_key=variant_key, ids=ids)

    @endpoint("GET", f"{ONE}/deployments", "array", model="Deployment", beta=None)
    def deployments(self, id: Id) -> "Call[Sequence[Deployment]]":
        """List the deployments of one object."""
        return self._call("deployments", id=id)

    @endpoint(
        "POST", f"{ONE}/deployments", "ok", beta=None,
        ids=check.attached, wrap="deployments", repeat="never", reach="people",
    )  # fmt: skip
    def add_deployments(self, id: Id, ids: Sequence[Id]) -> Call[None]:
        """Attach existing deployments to one object. Never repeated blindly."""
        return self._call("add_deployments", id=id, ids=ids)

    @endpoint("DELETE", f"{ONE}/deployments/{{deployment_id}}", "ok", repeat="gone is done", reach="people", beta=None)
    def remove_deployment(self, id: Id, deployment_id: Id) -> Call[None]:
        """Detach one deployment from one object."""
        return self._call("remove_deployment", id=id, deployment_id=deployment_id)


class FlagCalls(ObjectCalls["Flag"]):
    """The calls on flags."""

    @endpoint(
        "POST", "/{kind}", "object", model="Created", beta="/{kind}/new", fields=FlagCreate, repeat="never",
        settle=_settled_create(("on",)),
    )  # fmt: skip
    def create(self, **fields: Unpack[FlagCreate]) -> "Call[Created]":
        """Create a flag, disabled at 0 %. Never repeated blindly.

        Where the caller leaves them out, ``variants`` is ``on``, weights are 1 each, ``evaluation_mode`` is
        ``remote`` and ``bucketing_key`` is ``amplitude_id`` (``user_id`` for local evaluation).
        """
        return self._call("create", **fields)

    @endpoint(
        "PATCH", ONE, "anything", fields=FlagPatch, beta_lacks=NEW_IN_V1, repeat="unless it reaches people",
        reach="people", settle=check.refuse_local_amplitude_id,
    )  # fmt: skip
    def update(self, id: Id, **fields: Unpack[FlagPatch]) -> Call[None]:
        """Change a flag. One that can reach people is never repeated blindly."""
        return self._call("update", id=id, **fields)


class ExperimentCalls(ObjectCalls["Experiment"]):
    """The calls on experiments."""

    @endpoint(
        "POST", "/{kind}", "object", model="Created", beta="/{kind}/new", fields=ExperimentCreate, repeat="never",
        settle=_settled_create(("control", "treatment")),
    )  # fmt: skip
    def create(self, **fields: Unpack[ExperimentCreate]) -> "Call[Created]":
        """Create a feature experiment, disabled at 0 %. Never repeated blindly.

        Where the caller leaves them out, ``variants`` are ``control`` and ``treatment``; the rest as for flags.
        """
        return self._call("create", **fields)

    @endpoint(
        "PATCH", ONE, "anything", fields=ExperimentPatch, beta_lacks=NEW_IN_V1,
        repeat="unless it reaches people", reach="people", settle=check.refuse_local_amplitude_id,
    )  # fmt: skip
    def update(self, id: Id, **fields: Unpack[ExperimentPatch]) -> Call[None]:
        """Change an experiment. One that can reach people is never repeated blindly."""
        return self._call("update", id=id, **fields)

    @endpoint(
        "POST", f"{ONE}/activate", "anything", on_v1=("experiments.update", {"enabled": True}), repeat="never",
        reach="people",
    )  # fmt: skip
    def activate(self, id: Id) -> Call[None]:
        """Enable an experiment: the beta's own call, on v1 the PATCH of ``enabled``."""
        return self._call("activate", id=id)

    @endpoint(
        "POST", f"{ONE}/deactivate", "anything", on_v1=("experiments.update", {"enabled": False}),
        reach="people",
    )  # fmt: skip
    def deactivate(self, id: Id) -> Call[None]:
        """Disable an experiment: the beta's own call, on v1 the PATCH of ``enabled``."""
        return self._call("deactivate", id=id)

    @endpoint(
        "POST", f"{ONE}/rollout-weights", "anything", fields=RolloutWeights, v1_advice=WEIGHTS_ON_V1,
        repeat="never", reach="people",
    )  # fmt: skip
    def set_rollout_weights(self, id: Id, *, rollout_weights: Weights) -> Call[None]:
        """Set the weights of all variants at once. Beta only; on v1 use ``update_variant``, one by one."""
        return self._call("set_rollout_weights", id=id, rollout_weights=rollout_weights)


experiments = ExperimentCalls("experiments", model="Experiment")
flags = FlagCalls("flags", model="Flag")
