"""The state of the emulator: projects, keys, deployments, flags, experiments, groups and versions.

Objects are kept as plain dictionaries with every field that the API knows, in the API's own spelling; what
an answer shows of them is decided in ``shapes``. Everything that changes an object goes through ``edit``,
which makes a change whole or not at all and writes its version.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, Literal

from .clock import Clock, to_timestamp, utc_now
from .errors import ApiError, not_found
from .options import Options

Json = dict[str, Any]
Kind = Literal["flag", "experiment", "mutex", "holdout"]
KINDS: tuple[Kind, ...] = ("flag", "experiment", "mutex", "holdout")
TOGGLES: tuple[Kind, ...] = ("flag", "experiment")

_NEEDS_APPROVAL = ("targetSegments", "rolloutWeights", "exposureEvent", "bucketingSalt", "stickyBucketing")


@dataclass
class ManagementKey:
    """A management key: the projects it may see, and the person its changes are signed with."""

    key: str
    projects: list[str]
    email: str
    user_id: str
    revoked: bool = False


@dataclass
class Deployment:
    """A deployment: what one application is served."""

    id: str
    project_id: str
    label: str
    type: str
    key: str
    deleted: bool = False
    default: bool = False


@dataclass
class ProjectKeys:
    """What opens a project's analytics: not a management key."""

    project_id: str
    api_key: str
    secret_key: str


@dataclass
class SavedChart:
    """A saved chart: of each series, by its label, the periods and their values.

    ``conditions`` goes into what asking for it costs, and ``seconds`` is how long the answer takes.
    """

    id: str
    project_id: str
    title: str
    metric: str
    series: dict[str, list[tuple[str, float | None]]]
    conditions: int
    seconds: float


@dataclass
class Cohort:
    """A behavioral cohort: of each user the ``amplitude_id``, the ``user_id`` (may be empty) and any properties."""

    id: str
    project_id: str
    name: str
    description: str
    users: list[Json]


@dataclass
class Version:
    """One entry of an object's history, with the object as it was then."""

    number: int
    created_at: str
    created_by: str
    config: Json
    order: int


@dataclass
class Thing:
    """A flag, experiment, mutual exclusion group or holdout group."""

    kind: Kind
    data: Json
    order: int
    versions: list[Version] = field(default_factory=list)

    @property
    def id(self) -> str:
        """The object's id."""
        return str(self.data["id"])

    @property
    def key(self) -> str:
        """The object's key, unique in its project over all four kinds."""
        return str(self.data["key"])

    @property
    def project_id(self) -> str:
        """The project it belongs to."""
        return str(self.data["projectId"])

    @property
    def deleted(self) -> bool:
        """Whether it is archived."""
        return bool(self.data["deleted"])


class Store:
    """All state, and the lock that whoever touches it holds."""

    def __init__(self, *, clock: Clock = utc_now) -> None:
        self.lock = threading.RLock()
        self.clock = clock
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self.options = Options()
        self.projects: dict[str, Json] = {}
        self.keys: dict[str, ManagementKey] = {}
        self.project_keys: dict[str, ProjectKeys] = {}
        self.charts: dict[str, SavedChart] = {}
        self.cohorts: dict[str, Cohort] = {}
        self.deployments: dict[str, Deployment] = {}
        self.things: dict[str, Thing] = {}
        self.groups: dict[str, Thing] = {}  # those of the things that are groups
        self._by_key: dict[tuple[str, str], Thing] = {}
        self.next_id = 21001
        self.next_deployment_id = 31
        self._order = 0

    # --- finding -------------------------------------------------------------------------------------

    def find(self, kind: Kind, object_id: str, key: ManagementKey) -> Thing:
        """Return an object that the key may see.

        :raises ApiError: 404 for an unknown id, 403 for one in a project outside the key's scope.
        """
        thing = self.things.get(object_id)
        if thing is None or thing.kind != kind:
            raise not_found(f"There is no {kind} with this id.")
        self.require_project(thing.project_id, key)
        return thing

    def find_deployment(self, deployment_id: str, key: ManagementKey) -> Deployment:
        """Return a deployment that the key may see, or raise as ``find`` does."""
        deployment = self.deployments.get(deployment_id)
        if deployment is None:
            raise not_found("There is no deployment with this id.")
        self.require_project(deployment.project_id, key)
        return deployment

    def require_project(self, project_id: str, key: ManagementKey) -> None:
        """Refuse with 403 a project that the key cannot see, whether or not it exists."""
        if project_id not in key.projects:
            raise ApiError(403, "The key has no access to this project.")

    def by_key(self, project_id: str, key: str) -> Thing | None:
        """Return the object of any kind, archived ones included, that holds a key in a project."""
        return self._by_key.get((project_id, key))

    def newest_first(self, *kinds: Kind) -> list[Thing]:
        """Return all objects of these kinds, the last created first."""
        found = [thing for thing in self.things.values() if thing.kind in kinds]
        return sorted(found, key=lambda thing: (thing.data["createdAt"], thing.order), reverse=True)

    def default_deployment(self, project_id: str) -> Deployment | None:
        """Return the deployment that every project comes with."""
        mine = [one for one in self.deployments.values() if one.project_id == project_id]
        return next((one for one in mine if one.default), None)

    def user_id(self, email: str) -> str:
        """Return the user id behind an e-mail address; the API prints one here and the other there."""
        known = next((key.user_id for key in self.keys.values() if key.email == email), None)
        return known or str(10_000 + int(hashlib.sha256(email.encode()).hexdigest()[:6], 16))

    # --- making --------------------------------------------------------------------------------------

    def new_id(self) -> str:
        """Return the next id; flags, experiments and groups share one row of ids."""
        while str(self.next_id) in self.things:
            self.next_id += 1
        self.next_id += 1
        return str(self.next_id - 1)

    def new_deployment_id(self) -> str:
        """Return the next id of a deployment."""
        while str(self.next_deployment_id) in self.deployments:
            self.next_deployment_id += 1
        self.next_deployment_id += 1
        return str(self.next_deployment_id - 1)

    def next_order(self) -> int:
        """Return a number that says what came after what, also within one millisecond."""
        self._order += 1
        return self._order

    def reserve_order(self, order: int) -> None:
        """Go on counting after a number that a loaded document brought along."""
        self._order = max(self._order, order)

    def add(self, kind: Kind, data: Json, *, write_version: bool = True) -> Thing:
        """Keep a new object and write its first version."""
        if self.by_key(str(data["projectId"]), str(data["key"])) is not None:
            raise ApiError(400, f"The key {data['key']!r} is already taken in this project.")
        thing = Thing(kind, data, self.next_order())
        self.things[thing.id] = self._by_key[thing.project_id, thing.key] = thing
        if kind not in TOGGLES:
            self.groups[thing.id] = thing
        if write_version and kind in TOGGLES:
            self._write_version(thing, data["createdBy"], data["createdAt"])
        return thing

    # --- changing ------------------------------------------------------------------------------------

    @contextmanager
    def edit(self, thing: Thing, author: str) -> Iterator[Json]:
        """Give a copy to change; on leaving, the change takes effect as a whole and writes a version."""
        draft = deepcopy(thing.data)
        yield draft
        changed = [name for name in draft if not same(draft[name], thing.data.get(name))]
        if not changed and not (self.options.noop_versions and thing.kind in TOGGLES):
            return
        if self._waits_for_approval(thing, draft, changed):
            return
        now = to_timestamp(self.clock())
        thing.data = {**draft, "lastModifiedBy": author, "lastModifiedAt": now}
        if thing.kind in TOGGLES:
            self._write_version(thing, author, now)

    def _write_version(self, thing: Thing, author: str, moment: str) -> None:
        number = thing.versions[-1].number + 1 if thing.versions else 1
        version = Version(number, moment, author, deepcopy(thing.data), self.next_order())
        thing.versions.append(version)

    def _waits_for_approval(self, thing: Thing, draft: Json, changed: list[str]) -> bool:
        if self.options.approvals == "off" or thing.kind not in TOGGLES or not changed:
            return False
        starting = draft["enabled"] and not thing.data["enabled"]
        if not starting and not thing.data["enabled"]:
            return False
        documented = starting or any(name in _NEEDS_APPROVAL for name in changed)
        documented = documented or not same(_served(draft["variants"]), _served(thing.data["variants"]))
        if self.options.approval_scope == "documented" and not documented:
            return False
        if self.options.approvals == "reject":
            raise ApiError(self.options.approval_status, "This change needs an approval.")
        return True


def _served(variants: list[Json]) -> list[Json]:
    """Return the variants without their inclusions, which no approval guards."""
    return [{**variant, "users": [], "cohorts": []} for variant in variants]


def same(one: Any, other: Any) -> bool:
    """Compare as JSON: unlike ``==``, ``true`` is not ``1``."""
    return one == other and json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def made_up(length: int, *parts: str) -> str:
    """Return letters and digits that look random and are the same in every run."""
    alphabet = "ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnpqrstuvwxyz23456789"
    digest = hashlib.sha256("/".join(parts).encode()).digest()
    return "".join(alphabet[byte % len(alphabet)] for byte in digest[:length])
