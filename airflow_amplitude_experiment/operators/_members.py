"""Who is put into a group, or taken out: found by key or id, and looked at before their traffic moves.

Apart from :mod:`._groups`, which writes, because everything here only reads and refuses.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from airflow_amplitude_experiment.api import AmplitudeNotFound, RolloutRefused
from airflow_amplitude_experiment.hooks.guard import GuardedClient
from airflow_amplitude_experiment.hooks.projects import CALLS

KINDS = {"experiments": "experiment", "holdouts": "holdout group"}
"""What stands in each list of members."""

_LOOKED_AT = {"experiments": ("enabled", "evaluation_mode"), "holdouts": ("evaluation_mode", "experiments")}
"""What of a member decides whether it may come or go; a list that shows less of it than details do is not enough."""

Ids = Mapping[str, Sequence[str]]
"""Ids by the list that they stand in."""


class Members:
    """The experiments and holdout groups that a task names, each read once.

    :param project: where they all must lie.
    :param what: the group in words, for refusals.
    """

    def __init__(self, client: GuardedClient, project: str, *, what: str) -> None:
        self._client = client
        self._project = project
        self._what = what
        self._read: dict[tuple[str, str], Any] = {}

    def ids(self, side: str, names: Iterable[str]) -> list[str]:
        """Return the ids of members that are named by key or id, each once.

        :raises RolloutRefused: all keys that name nothing.
        """
        found = {name: name if _is_id(name) else self._id_of(side, name) for name in names}
        if unknown := [name for name, object_id in found.items() if object_id is None]:
            raise self._refused(
                f"there is no {KINDS[side]} {', '.join(unknown)} in project {self._project}, archived ones included",
                "Correct the key (a flag can't be a member), or name it by its id.",
            )
        return list(dict.fromkeys(object_id for object_id in found.values() if object_id is not None))

    def refuse_unfit(self, coming: Ids, *, mode: str | None) -> None:
        """Refuse who can't be a member: unknown, archived, of another project, local in a remote group (F11).

        :param mode: the group's evaluation mode.
        :raises RolloutRefused: all of them, each with what is wrong.
        """
        wrong = []
        for side, object_id in _each(coming):
            found = self._one(side, object_id)
            name = _named(side, object_id, found)
            if found is None:
                wrong.append(f"there is no {name}")
            elif found.project_id != self._project:
                wrong.append(f"{name} belongs to project {found.project_id}, not {self._project}")
            elif found.deleted:
                wrong.append(f"{name} is archived")
            elif found.evaluation_mode == "local" and mode == "remote":
                wrong.append(f"{name} is evaluated locally, and the group remotely; a local member needs a local group")
        if wrong:
            raise self._refused("; ".join(wrong), "Correct the members.")

    def refuse_running(self, moving: Ids, *, while_running: bool) -> list[str]:
        """Refuse members that are enabled; return which they are, in words, where that is meant.

        :param moving: who comes or goes; a holdout group brings its own members.
        :raises RolloutRefused: all that are running, and what to do.
        """
        running = [words for side, object_id in _each(moving) for words in self._running(side, object_id)]
        if running and not while_running:
            raise self._refused(
                f"{'; '.join(running)}: whoever comes into a group or leaves it while it runs changes at once for its "
                "users, and its results with it",
                "Change groups before a member starts or after it ended (switch it off first), or state that it is "
                "meant: while_running=True.",
            )
        return running

    def names(self, ids: Ids) -> str:
        """Return members in words: ``experiment checkout (id 21001)``."""
        return ", ".join(_named(side, object_id, self._read.get((side, object_id))) for side, object_id in _each(ids))

    def _running(self, side: str, object_id: str) -> Iterator[str]:
        found = self._one(side, object_id)
        if found is None:
            return
        if side == "experiments":
            if is_running(found):
                yield f"{_named(side, object_id, found)} is running, enabled at {found.rollout_percentage} %"
            return
        for member in found.experiments or ():
            for words in self._running("experiments", member):
                yield f"{words}, a member of {_named(side, object_id, found)}"

    def _id_of(self, side: str, key: str) -> str | None:
        """Return the id of a key; lists don't show who is archived, so they are asked for one and then the other."""
        for archived in (False, True):
            call = CALLS[side].list(key=key, project_id=self._project, include_archived=archived)
            for row in self._client.iterate(call):
                if archived or None not in (getattr(row, name) for name in _LOOKED_AT[side]):
                    self._read[side, row.id] = row.model_copy(update={"deleted": True}) if archived else row
                return str(row.id)
        return None

    def _one(self, side: str, object_id: str) -> Any:
        """Return a member; ``None`` where there is none of this id (any more)."""
        if (side, object_id) not in self._read:
            try:
                self._read[side, object_id] = self._client.send(CALLS[side].get(object_id))
            except AmplitudeNotFound:
                self._read[side, object_id] = None
        return self._read[side, object_id]

    def _refused(self, why: str, advice: str) -> RolloutRefused:
        return RolloutRefused(f"{self._what}: {why}. Nothing was written. {advice}")


def is_running(found: Any) -> bool:
    """Whether an experiment may reach people; one that does not show its switch may."""
    return found.enabled is not False and not found.deleted


def refuse_taken_key(client: GuardedClient, key: str, project: str, *, kind: str, what: str) -> None:
    """Refuse a key that another kind of object has: flags, experiments and groups share one set of keys (E23, F6).

    :raises RolloutRefused: what has it.
    """
    others = {"flag": "flags", "experiment": "experiments", "mutex group": "mutexes", "holdout group": "holdouts"}
    for other, namespace in others.items():
        if other == kind:
            continue
        for found in client.iterate(CALLS[namespace].list(key=key, project_id=project, include_archived=True)):
            raise RolloutRefused(
                f"{what}: the key is taken by {other} {key} (id {found.id}); flags, experiments and groups of a "
                "project share one set of keys. Nothing was written. Use another key."
            )


def _each(ids: Ids) -> Iterator[tuple[str, str]]:
    return ((side, object_id) for side in KINDS for object_id in ids.get(side, ()))


def _is_id(name: str) -> bool:
    return name.isascii() and name.isdigit()


def _named(side: str, object_id: str, found: Any) -> str:
    key = getattr(found, "key", None)
    return f"{KINDS[side]} {key} (id {object_id})" if key else f"{KINDS[side]} {object_id}"
