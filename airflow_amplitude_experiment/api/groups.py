"""The calls on mutex groups, holdout groups, deployments and the feed of versions.

As in :mod:`.objects`: a function returns a call and sends nothing; path parts are positional, everything else is
a keyword. Source: Amplitude's "Experiment Management API", pages "Mutex", "Holdout", "Deployments" and "Versions".
"""

# Annotations are evaluated here: the TypedDicts carry the checks that run on them.
from collections.abc import Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING, Annotated, Any, Literal, Required, TypedDict, Unpack

from . import _checks as check
from ._call import FILTERS, Call, Calls, endpoint
from ._checks import WrongValue

if TYPE_CHECKING:
    from .models import Created, Deployment, Holdout, Mutex, Page, Version

Id = str | int
Json = Mapping[str, Any]
ONE = "/{kind}/{id}"


class Paging(TypedDict, total=False):
    """Where to read in a list."""

    limit: Annotated[int, check.page_size]
    cursor: Annotated[Id, check.identifier]


class DeploymentFilter(Paging, total=False):
    """What a list of deployments can be narrowed by. Archived ones are in it unless ``include_archived`` is false."""

    project_id: Annotated[Id, check.identifier]
    include_archived: Annotated[bool, check.boolean]


class GroupFilter(DeploymentFilter, total=False):
    """What a list of mutex or holdout groups can be narrowed by."""

    key: Annotated[str, check.name]


class VersionFilter(Paging, total=False):
    """Which versions to list: ``start`` inclusive, ``end`` exclusive, ISO 8601 in UTC."""

    project_id: Annotated[Id, check.identifier]
    start: Annotated[str | date, check.date_text]
    end: Annotated[str | date, check.date_text]


class DeploymentCreate(TypedDict):
    """Fields of a new deployment."""

    project_id: Annotated[Id, check.identifier]
    label: Annotated[str, check.label]
    type: Annotated[Literal["client", "server"], check.deployment_type]


class DeploymentPatch(TypedDict, total=False):
    """Fields of a deployment that can be changed."""

    label: Annotated[str, check.label]
    archive: Annotated[bool, check.boolean]


class MutexCreate(TypedDict, total=False):
    """Fields of a new mutex group: 1 to 20 slots whose percentages sum to 100."""

    project_id: Required[Annotated[Id, check.numeric_id]]
    name: Required[Annotated[str, check.name]]
    slots: Required[Annotated[Sequence[Json], check.slots]]
    key: Annotated[str, check.name]
    description: Annotated[str, check.text]
    evaluation_mode: Annotated[Literal["local", "remote"], check.evaluation_mode]
    bucketing_key: Annotated[str, check.name]
    bucketing_salt: Annotated[str, check.name]
    project_id_type: Annotated[Literal["integer", "string"], check.one_of("integer", "string")]
    allow_local_amplitude_id: Annotated[bool, check.boolean]


class MutexPatch(TypedDict, total=False):
    """Fields of a mutex group that can be changed; ``archive`` stands alone."""

    name: Annotated[str, check.text]
    description: Annotated[str, check.text]
    archive: Annotated[bool, check.boolean]


class SlotPatch(TypedDict, total=False):
    """Members of one slot, each list whole."""

    experiments: Annotated[Sequence[Id], check.numeric_ids]
    holdouts: Annotated[Sequence[Id], check.numeric_ids]
    individuals: Annotated[Sequence[Id], check.people_listed]


class HoldoutCreate(TypedDict, total=False):
    """Fields of a new holdout group; ``holdout_percentage`` is 1 to 99 and can't be changed later."""

    project_id: Required[Annotated[Id, check.numeric_id]]
    name: Required[Annotated[str, check.name]]
    holdout_percentage: Required[Annotated[int, check.holdout_percentage]]
    key: Annotated[str, check.name]
    description: Annotated[str, check.text]
    evaluation_mode: Annotated[Literal["local", "remote"], check.evaluation_mode]
    bucketing_key: Annotated[str, check.name]
    experiments: Annotated[Sequence[Id], check.numeric_ids]
    individual_inclusion: Annotated[Sequence[Id], check.people_listed]
    individual_exclusion: Annotated[Sequence[Id], check.people_listed]
    project_id_type: Annotated[Literal["integer", "string"], check.one_of("integer", "string")]
    allow_local_amplitude_id: Annotated[bool, check.boolean]


class HoldoutPatch(TypedDict, total=False):
    """Fields of a holdout group that can be changed."""

    name: Annotated[str, check.text]
    description: Annotated[str, check.text]
    experiments: Annotated[Sequence[Id], check.numeric_ids]
    individual_inclusion: Annotated[Sequence[Id], check.people_listed]
    individual_exclusion: Annotated[Sequence[Id], check.people_listed]
    archive: Annotated[bool, check.archive_only]


def settle_group(values: dict[str, Any]) -> dict[str, Any]:
    """Say evaluation mode and bucketing out loud (E15, E17), and the project id in the type asked for (A2)."""
    if values.pop("project_id_type", "integer") == "string":
        values["project_id"] = str(values["project_id"])
    values.setdefault("evaluation_mode", "remote")
    local = values["evaluation_mode"] == "local"
    values.setdefault("bucketing_key", "user_id" if local else "amplitude_id")
    return check.refuse_local_amplitude_id(refuse_both_ways(values))


def refuse_both_ways(values: dict[str, Any]) -> dict[str, Any]:
    """Refuse a person who is to be held out and not to be held out at once (F10)."""
    both = set(values.get("individual_inclusion", ())) & set(values.get("individual_exclusion", ()))
    if both:
        raise WrongValue(f"{len(both)} ids stand in individual_inclusion and in individual_exclusion")
    return values


def archive_alone(values: dict[str, Any]) -> dict[str, Any]:
    """Refuse other fields beside ``archive``: Amplitude would ignore them (F4)."""
    if "archive" in values and values.keys() - {"id", "archive"}:
        raise WrongValue("archive stands alone; Amplitude ignores every other field of the same request")
    return values


class VersionCalls(Calls):
    """The feed of changes over all objects that the key can see."""

    @endpoint("GET", "/{kind}", "page", model="Version", fields=VersionFilter, local=FILTERS, beta=None)
    def list(self, **filters: Unpack[VersionFilter]) -> "Call[Page[Version]]":
        """List versions of flags and experiments, newest first, of every project that the key can see.

        ``project_id`` is applied here (B11).
        """
        return self._call("list", **filters)


class DeploymentCalls(Calls):
    """The calls on deployments."""

    @endpoint("GET", "/{kind}", "page", beta="/{kind}/list", fields=DeploymentFilter, local=FILTERS)
    def list(self, **filters: Unpack[DeploymentFilter]) -> "Call[Page[Deployment]]":
        """List deployments of every project that the key can see, archived ones included; filters apply here (B9)."""
        return self._call("list", **filters)

    @endpoint("POST", "/{kind}", "object", model="Created", fields=DeploymentCreate, repeat="never", beta=None)
    def create(self, **fields: Unpack[DeploymentCreate]) -> "Call[Created]":
        """Create a deployment. Never repeated blindly: a repeat may make a second one."""
        return self._call("create", **fields)

    @endpoint("PATCH", ONE, "ok", fields=DeploymentPatch, reach="people", beta=None)
    def update(self, id: Id, **fields: Unpack[DeploymentPatch]) -> Call[None]:
        """Rename, archive or restore a deployment. An archived one serves nothing."""
        return self._call("update", id=id, **fields)


class MutexCalls(Calls):
    """The calls on mutex groups."""

    @endpoint("GET", "/{kind}", "page", fields=GroupFilter, local=FILTERS, beta=None)
    def list(self, **filters: Unpack[GroupFilter]) -> "Call[Page[Mutex]]":
        """List the mutex groups of every project that the key can see; filters are applied here (B9)."""
        return self._call("list", **filters)

    @endpoint("GET", ONE, "object", beta=None)
    def get(self, id: Id) -> "Call[Mutex]":
        """Read one mutex group."""
        return self._call("get", id=id)

    @endpoint(
        "POST", "/{kind}", "object", model="Created", fields=MutexCreate, beta=None,
        repeat="never", reach="people", settle=settle_group,
    )  # fmt: skip
    def create(self, **fields: Unpack[MutexCreate]) -> "Call[Created]":
        """Create a mutex group. Its members serve only their slot's share from then on. Never repeated blindly."""
        return self._call("create", **fields)

    @endpoint("PATCH", ONE, "anything", fields=MutexPatch, reach="people", settle=archive_alone, beta=None)
    def update(self, id: Id, **fields: Unpack[MutexPatch]) -> Call[None]:
        """Rename, describe or archive a mutex group. Archiving frees its members at once."""
        return self._call("update", id=id, **fields)

    @endpoint("PATCH", f"{ONE}/slots/{{slot_index}}", "anything", fields=SlotPatch, reach="people", beta=None)
    def update_slot(self, id: Id, slot_index: int, **fields: Unpack[SlotPatch]) -> Call[None]:
        """Set the members of one slot; ``slot_index`` is the slot's own ``index`` as it was read."""
        return self._call("update_slot", id=id, slot_index=slot_index, **fields)


class HoldoutCalls(Calls):
    """The calls on holdout groups."""

    @endpoint("GET", "/{kind}", "page", fields=GroupFilter, local=FILTERS, beta=None)
    def list(self, **filters: Unpack[GroupFilter]) -> "Call[Page[Holdout]]":
        """List the holdout groups of every project that the key can see; filters are applied here (B9)."""
        return self._call("list", **filters)

    @endpoint("GET", ONE, "object", beta=None)
    def get(self, id: Id) -> "Call[Holdout]":
        """Read one holdout group."""
        return self._call("get", id=id)

    @endpoint(
        "POST", "/{kind}", "object", model="Created", fields=HoldoutCreate, beta=None,
        repeat="never", reach="people", settle=settle_group,
    )  # fmt: skip
    def create(self, **fields: Unpack[HoldoutCreate]) -> "Call[Created]":
        """Create a holdout group. Its members leave the share out from then on. Never repeated blindly."""
        return self._call("create", **fields)

    @endpoint("PATCH", ONE, "anything", fields=HoldoutPatch, reach="people", settle=refuse_both_ways, beta=None)
    def update(self, id: Id, **fields: Unpack[HoldoutPatch]) -> Call[None]:
        """Change a holdout group's texts or members, or archive it. Archiving frees its members at once."""
        return self._call("update", id=id, **fields)


versions = VersionCalls("versions", model="Version")
deployments = DeploymentCalls("deployments", model="Deployment")
mutexes = MutexCalls("mutexes", model="Mutex")
holdouts = HoldoutCalls("holdouts", model="Holdout")
