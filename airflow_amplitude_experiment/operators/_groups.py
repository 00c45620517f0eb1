"""What a task does with a mutex group or a holdout group: look for it, create it once, change who is in it.

Apart from the operators because it is loaded when a task runs, not when a DAG is parsed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow_amplitude_experiment.api import (
    AmplitudeError,
    AmplitudeInvalidRequest,
    AmplitudeNotFound,
    AmplitudeReadOnly,
    RolloutRefused,
)
from airflow_amplitude_experiment.api._call import find_endpoint
from airflow_amplitude_experiment.api._checks import short
from airflow_amplitude_experiment.hooks.guard import GuardedClient
from airflow_amplitude_experiment.hooks.lookup import the_one_there
from airflow_amplitude_experiment.hooks.projects import CALLS, refuse_id_in_several_projects, refuse_several_projects
from airflow_amplitude_experiment.ui.links import leave_link

from ._edit import NAMESPACES, Edit
from ._group_change import LISTS, TEXTS, Change, counted, in_words, parts_of, stands, without
from ._members import KINDS, Members, refuse_taken_key

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from .groups import _GroupOperator

FIXED = (*TEXTS, "evaluation_mode", "bucketing_key", "bucketing_salt", "holdout_percentage")
PUTS_IN = {
    "mutex group": "AmplitudeUpdateMutexSlotOperator",
    "holdout group": "AmplitudeUpdateHoldoutGroupOperator",
}
SECONDS_BEFORE_ANOTHER_LOOK = (1.0, 2.0, 4.0)
"""After a create whose fate is unknown, and until a new group can be read: lists and reads may lag behind."""


class Groups:
    """One task's dealings with one group.

    :param kind: ``mutex group`` or ``holdout group``.
    :param project: the project that the task or the connection names.
    :param while_running: members that are running may come and go.
    """

    def __init__(
        self,
        operator: _GroupOperator,
        context: Context,
        client: GuardedClient,
        *,
        kind: str,
        project: str | None,
        while_running: bool,
    ) -> None:
        self.client = client
        self.kind = kind
        self.project = project
        self.while_running = while_running
        self.log = operator.log
        self.calls = CALLS[NAMESPACES[kind]]
        self._operator = operator
        self._context = context

    # --- creating ---------------------------------------------------------------------------------------------

    def create(self, key: str, described: Mapping[str, Any]) -> dict[str, Any]:
        """Create the group of this key, or go on with it where it stands as described.

        :param described: the arguments that were given, checked, members by key or id.
        :raises RolloutRefused: it is there and differs, its key is taken, or a member can't be put into it.
        :raises ValueError: what the API would not take; nothing was sent.
        """
        self._check(key, described)
        edit = self._edit(f"{self.kind} {key}")
        if (found := self._find(key)) is not None:
            return self._adopted(edit, found, described)
        if self.project is None:
            raise ValueError(
                f"there is no {edit.name}, and to create one a project must be named: project_id in the "
                "connection's extra, or project_id=… on the operator"
            )
        refuse_taken_key(self.client, key, self.project, kind=self.kind, what=edit.name)
        members = Members(self.client, self.project, what=edit.name)
        wanted = _with_members(described, members.ids)
        coming = _gathered(wanted)
        members.refuse_unfit(coming, mode=wanted.get("evaluation_mode", "remote"))
        running = members.refuse_running(coming, while_running=self.while_running)
        return self._created(edit, key, wanted, members, running)

    def _check(self, key: str, described: Mapping[str, Any]) -> None:
        """Check the whole call before the first request; members need not be known for that."""
        nobody = _with_members(described, lambda side, names: [])
        create = find_endpoint(f"{NAMESPACES[self.kind]}.create")
        create.prepare({"project_id": self.project or "1", "name": key, **nobody}, dialect=self.client.dialect)

    def _created(
        self, edit: Edit, key: str, wanted: Mapping[str, Any], members: Members, running: list[str]
    ) -> dict[str, Any]:
        """Send the create once, and read back; where its answer was lost, look before anything else."""
        call = self.calls.create(project_id=self.project, key=key, **{"name": key, **wanted})
        try:
            new = edit.send(call, members=members.names(_gathered(wanted)))
        except AmplitudeReadOnly:
            self.log.info("%s: would be created (read-only, not sent)", edit.name)
            return edit.record(key=key, project_id=self.project, created=False, adopted=False, running=running)
        except AmplitudeError as error:
            if (found := self._what_is_there_after(error, key)) is None:
                self.log.warning("%s is not listed; an archived group keeps its key without being listed.", edit.name)
                raise
            edit.written = error.maybe_applied and not _differences(found, wanted, members)
            return self._adopted(edit, found, wanted, running)
        edit.found = self._read_new(new.id)
        edit.confirm(lambda: _differences(edit.found, wanted, members) and _differences(edit.read(), wanted, members))
        return self._report(edit, running, url=new.url)

    def _what_is_there_after(self, error: AmplitudeError, key: str) -> Any:
        """Look whether a create that did not end well left its group, or whether somebody else was faster."""
        if not error.maybe_applied and not isinstance(error, AmplitudeInvalidRequest):
            return None
        self.log.warning("%s Looking for %s %s again.", error, self.kind, key)
        for wait in SECONDS_BEFORE_ANOTHER_LOOK if error.maybe_applied else (0.0,):
            time.sleep(wait)
            if (found := self._find(key)) is not None:
                return found
        return None

    def _read_new(self, object_id: str) -> Any:
        """Read the new group, which may not be readable at once."""
        for wait in SECONDS_BEFORE_ANOTHER_LOOK:
            try:
                return self.client.send(self.calls.get(object_id))
            except AmplitudeNotFound:
                time.sleep(wait)
        return self.client.send(self.calls.get(object_id))

    def _adopted(
        self, edit: Edit, found: Any, described: Mapping[str, Any], running: Sequence[str] = ()
    ) -> dict[str, Any]:
        """Go on with a group that was there.

        :raises RolloutRefused: it is not as described.
        """
        edit.found = found
        members = Members(self.client, str(found.project_id), what=edit.name)
        if different := _differences(found, _with_members(described, members.ids), members):
            raise RolloutRefused(
                f"{edit.name} (id {found.id}, project {found.project_id}) can't be adopted: {'; '.join(different)}. "
                "Nothing was written. Describe it as it is, or use another key: percentages are fixed when a group is "
                f"created. Who is missing is put in by {PUTS_IN[self.kind]}."
            )
        return self._report(edit, running)

    def _report(self, edit: Edit, running: Sequence[str], url: str | None = None) -> dict[str, Any]:
        """Log and record a group that stands as described."""
        found = edit.found
        self._tell_running(edit, running)
        parts = "; ".join(in_words(part) for part in parts_of(found))
        what = "created" if edit.written else "adopted as it is"
        self.log.info("%s: %s (id %s, project %s): %s", edit.name, what, found.id, found.project_id, parts)
        return edit.record(
            url=leave_link(self._context, self.client, found, url),
            created=edit.written,
            adopted=not edit.written,
            running=list(running),
            **({"slots": [stands(part) for part in parts_of(found)]} if self._has_slots else stands(found)),
        )

    # --- changing ---------------------------------------------------------------------------------------------

    def update(self, by: str, name: str, order: Mapping[str, Any]) -> dict[str, Any]:
        """Change lists of one part of a group, and its texts.

        :param by: ``key`` or ``id``.
        :param order: the arguments that were given, checked, members by key or id.
        :raises RolloutRefused: there is no such group or slot, or this change must not be made.
        :raises AmplitudeNotConfirmed: reading back shows something else.
        """
        found = self._find(name) if by == "key" else self._by_id(name)
        if found is None:
            where = f" in project {self.project}" if self.project else ""
            raise RolloutRefused(f"there is no {self.kind} {name}{where}. Nothing was written. Create it first.")
        leave_link(self._context, self.client, found)
        edit = self._edit(f"{self.kind} {found.key or found.id}", found)
        change = Change(edit, order, Members(self.client, str(found.project_id), what=edit.name))
        running = change.refuse_unfit(while_running=self.while_running)
        if change.fields and edit.unless_read_only(change.send):
            edit.confirm(change.left)
        self._tell_running(edit, running)
        self.log.info("%s: %s", edit.name, change.in_words())
        return edit.record(running=running, **change.facts())

    # --- finding ----------------------------------------------------------------------------------------------

    def _find(self, key: str) -> Any:
        """Find the group by its key; ``None`` where there is none, as far as Amplitude lists it.

        :raises RolloutRefused: it is archived, there twice, or in several projects and none is named.
        """
        filters = {"key": key, "include_archived": True} | ({"project_id": self.project} if self.project else {})
        rows = list(self.client.iterate(self.calls.list(**filters)))
        refuse_several_projects(f"{self.kind} {key}", [each.project_id for each in rows])
        present = the_one_there(f"{self.kind} {key}", rows)
        return None if present is None else self._whole(present)

    def _by_id(self, object_id: str) -> Any:
        """Read the group of this id.

        :raises RolloutRefused: it is archived, or of another project than the one that is named.
        """
        found = self.client.send(self.calls.get(object_id))
        name = f"{self.kind} {object_id} ({found.key})"
        if self.project is None:
            self.client.read(refuse_id_in_several_projects(name, NAMESPACES[self.kind], found.project_id))
        elif found.project_id != self.project:
            raise RolloutRefused(
                f"{name} belongs to project {found.project_id}, not {self.project}. Nothing was written. "
                "Correct the id or the project."
            )
        if found.deleted:
            raise RolloutRefused(f"{name} is archived. Nothing was written. Restore it in Amplitude, or use another.")
        return found

    def _whole(self, row: Any) -> Any:
        """Return a group with its lists, where a list of groups shows less than its details."""
        if (row.slots if self._has_slots else row.experiments) is not None:
            return row
        details = self.client.send(self.calls.get(row.id))
        return type(row).model_validate({**row.as_json(), **details.as_json()})

    # --- helpers ----------------------------------------------------------------------------------------------

    @property
    def _has_slots(self) -> bool:
        return self.kind == "mutex group"

    def _edit(self, name: str, found: Any = None) -> Edit:
        return Edit(self._operator, self._context, self.client, kind=self.kind, found=found, name=name)

    def _tell_running(self, edit: Edit, running: Sequence[str]) -> None:
        if running and edit.written:
            self.log.warning(
                "%s was changed while members run, as while_running says: %s", edit.name, "; ".join(running)
            )


def _with_members(described: Mapping[str, Any], ids: Callable[[str, Sequence[str]], list[str]]) -> dict[str, Any]:
    """Return a description with the ids of its members."""
    found = {name: ids(name, value) if name in KINDS else value for name, value in described.items()}
    if "slots" in described:
        found["slots"] = [_with_members(slot, ids) for slot in described["slots"]]
    return found


def _gathered(wanted: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return all members of a description, each once."""
    parts = [wanted, *wanted.get("slots", ())]
    return {side: list(dict.fromkeys(each for part in parts for each in part.get(side, ()))) for side in KINDS}


def _differences(found: Any, wanted: Mapping[str, Any], members: Members) -> list[str]:
    """Say where a group stands otherwise than described. More may be in it, and what Amplitude hides is let be."""
    different = [
        f"{name}: given {short(wanted[name])}, there {short(getattr(found, name))}"
        for name in FIXED
        if name in wanted and found.has(name) and getattr(found, name) != wanted[name]
    ]
    asked, parts = wanted.get("slots", [wanted]), parts_of(found)
    if "slots" in wanted:
        given, there = ([each["percentage"] for each in asked], [each.percentage for each in parts])
        if given != there:
            return [*different, f"slots: given {_percentages(given)}, there {_percentages(there)}"]
    for part, described in zip(parts, asked, strict=True):
        where = f"slot {part.index}: " if "slots" in wanted else ""
        for side in LISTS:
            missing = without(described.get(side, ()), getattr(part, side, None) or ())
            if missing:
                who = members.names({side: missing}) if side in KINDS else counted(side, missing)
                different.append(f"{where}{who} not in it")
    return different


def _percentages(values: Iterable[Any]) -> str:
    return " + ".join(f"{each} %" for each in values) or "none"
