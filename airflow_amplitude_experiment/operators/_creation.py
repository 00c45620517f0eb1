"""What a create task does: look by key, create once, finish, adopt or update.

Apart from the operators because it is loaded when a task runs, not when a DAG is parsed. It fetches, asks
:mod:`airflow_amplitude_experiment.rollout.adopt` and sends; what is decided there is decided without a request.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from airflow_amplitude_experiment.api import (
    AmplitudeError,
    AmplitudeInvalidRequest,
    AmplitudeNotConfirmed,
    AmplitudeNotFound,
    AmplitudeReadOnly,
    Call,
    RolloutRefused,
)
from airflow_amplitude_experiment.api._call import find_endpoint
from airflow_amplitude_experiment.api.models import Flag
from airflow_amplitude_experiment.hooks.freeze import Freeze
from airflow_amplitude_experiment.hooks.guard import GuardedClient
from airflow_amplitude_experiment.hooks.lookup import all_of_key, calls_of, merged, the_one_there
from airflow_amplitude_experiment.hooks.moves import lets_in, may_raise, own_rises
from airflow_amplitude_experiment.hooks.projects import Reading
from airflow_amplitude_experiment.hooks.write import Write
from airflow_amplitude_experiment.rollout import adopt
from airflow_amplitude_experiment.rollout.description import (
    Difference,
    Wanted,
    differences,
    needs_variants,
    second_call,
)

from ._audit import Audit
from ._served import ever_served

ATTEMPTS = 3
SECONDS_BEFORE_ANOTHER_LOOK = (1.0, 2.0, 4.0)
"""After a write whose fate is unknown, and after a create: lists and reads may lag behind."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of it, for the log and the record."""

    words: str
    found: Any = None
    created: bool = False
    adopted: bool = False
    updated: tuple[str, ...] = ()
    written: bool = False


class Creation:
    """One task's dealings with one described object.

    :param project: the project that the task or the connection names.
    :param reason: why, for the rules of the connection.
    :param audit: where each write is noted.
    :param log: the task's logger.
    """

    def __init__(
        self, client: GuardedClient, wanted: Wanted, *, project: str | None, reason: str | None, audit: Audit, log: Any
    ) -> None:
        self.client = client
        self.wanted = wanted
        self.audit = audit
        self.project = project
        self.reason = reason
        self.log = log
        self.may_be_mine = False
        self.calls = calls_of(wanted.kind)

    # --- finding and creating ---------------------------------------------------------------------------------

    def find(self) -> Any:
        """Find the object by its key; ``None`` where there is none.

        :raises RolloutRefused: it is archived, or found in several projects and none is named.
        """
        return self.client.read(self._finding())

    def _finding(self) -> Reading[Any]:
        found = yield from all_of_key(self.wanted.kind, self.wanted.key, self.project)
        present = the_one_there(f"{self.wanted}", found)
        return None if present is None else self._in_the_right_project(present)

    def _in_the_right_project(self, found: Any) -> Any:
        """Return the object, if it lies in the project that is named (law 11)."""
        if self.project is not None and found.project_id != self.project:
            raise RolloutRefused(
                f"{self.wanted} (id {found.id}) belongs to project {found.project_id}, not {self.project}. "
                "Nothing more was written. Correct the project."
            )
        return found

    def create(self, arguments: Mapping[str, Any]) -> tuple[Any, str | None, bool]:
        """Create it once; return the object as it stands then, its address, and whether it is this task's work.

        No object comes back where the connection is read-only.

        :raises ValueError: no project is named.
        :raises AmplitudeError: it may be there or not; another try looks first.
        """
        if self.project is None:
            raise ValueError(
                f"there is no {self.wanted}, and to create one a project must be named: project_id in the "
                "connection's extra, or project_id=… on the operator"
            )
        self._check_second_call()
        try:
            call = self.calls.create(project_id=self.project, key=self.wanted.key, **arguments)
            created = self._send(call)
        except AmplitudeReadOnly:
            return None, None, False
        except AmplitudeError as error:
            self.may_be_mine = error.maybe_applied
            found = self._what_is_there_after(error)
            if found is None:
                raise
            return found, None, error.maybe_applied and self._is_untouched(found)
        return self._in_the_right_project(self._read_new(created.id)), created.url, True

    def _check_second_call(self) -> None:
        """Refuse now what the second call can't say, or the connection's rules forbid it: nothing is left half done."""
        if not self.wanted.patch:
            return
        arguments = {"id": self.wanted.key, **self.wanted.patch}
        find_endpoint(f"{self.wanted.kind}s.update").prepare(arguments, dialect=self.client.dialect)
        new = {"id": "new", "key": self.wanted.key, "enabled": False, "rolloutPercentage": 0, "deleted": False}
        segments, weights = (self.wanted.post.get(name) for name in ("target_segments", "rollout_weights"))
        as_created = Flag.model_validate({**new, "targetSegments": segments, "rolloutWeights": weights})
        rises = list(own_rises("update", self.wanted.patch, as_created))
        self.client.rules.check_rises(rises, f"{self.wanted}")
        switched_on = lets_in("update", self.wanted.patch, as_created)
        Freeze.now().check_rises(self.wanted.key, [*rises, *switched_on], f"{self.wanted}")

    def _what_is_there_after(self, error: AmplitudeError) -> Any:
        """Look whether a create that did not end well left its object, or whether somebody else was faster."""
        if not error.maybe_applied and not isinstance(error, AmplitudeInvalidRequest):
            return None
        self.log.warning("%s Looking for %s again.", error, self.wanted)
        for wait in SECONDS_BEFORE_ANOTHER_LOOK if error.maybe_applied else (0.0,):
            time.sleep(wait)
            if (found := self.find()) is not None:
                return found
        return None

    def _read_new(self, object_id: str) -> Any:
        """Read the new object, which may not be readable at once."""
        for wait in SECONDS_BEFORE_ANOTHER_LOOK:
            try:
                return self._read(object_id)
            except AmplitudeNotFound:
                time.sleep(wait)
        return self._read(object_id)

    # --- the second call --------------------------------------------------------------------------------------

    def finish(self, found: Any, *, created: bool) -> Outcome:
        """Send what only the second call takes, to an object that stands as its creation left it.

        :raises AmplitudeNotConfirmed: reading back shows something else than what was sent.
        """
        if created:
            self._refuse_unconfirmed(found, differences(self.wanted, found))
        fields = {each.name: each.given for each in second_call(self.wanted, found)}
        if fields:
            try:
                self._send_second_call(found, fields)
            except AmplitudeReadOnly:
                words = f"would be finished with {', '.join(fields)} (read-only, not sent)"
                return Outcome(words=words, found=found, adopted=True)
            found = self._read_back(found, lambda now: second_call(self.wanted, now))
        if created:
            return Outcome(words="created", found=found, created=True, written=True)
        words = f"found as its creation left it, finished with {', '.join(fields)}"
        return Outcome(words=words, found=found, adopted=True, updated=tuple(sorted(fields)), written=True)

    def _send_second_call(self, found: Any, fields: dict[str, Any]) -> None:
        """Send it; where its fate is unknown read again, and send it again only to an object still untouched."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                self._send(self.calls.update(found.id, **fields), found)
                return
            except AmplitudeError as error:
                self._raise_or_wait(error, attempt)
            if not self._is_untouched(self._read(found.id)):
                return

    def _is_untouched(self, found: Any) -> bool:
        """Whether an object stands as its creation left it: disabled, at 0 %, a single version."""
        return adopt.is_as_posted(found) and len(self.client.send(self.calls.versions(found.id))) == 1

    # --- one that was there -----------------------------------------------------------------------------------

    def take_over(
        self, found: Any, *, if_exists: adopt.IfExists, adopt_live: bool, run_after: datetime | None
    ) -> Outcome:
        """Adopt or update an object that was there, or finish one that an earlier try left half done.

        :param run_after: when this run was due; an object created since is its own.
        :raises RolloutRefused: it is not as described, live, or can't be updated.
        """
        own = bool(adopt.created_since(found, run_after))
        moved = own or adopt_live
        if if_exists == "fail":
            adopt.refuse_to_take_over(self.wanted, found, (), if_exists=if_exists, own=own)
        different = self._differences(found, moved=moved)
        adopt.refuse_to_take_over(self.wanted, found, different, if_exists=if_exists, adopt_live=adopt_live, own=own)
        if not different and second_call(self.wanted, found) and self._is_untouched(found):
            return self.finish(found, created=False)
        if if_exists == "update":
            return self._update(found, different, moved=moved)
        return Outcome(words="adopted as it is", found=found, adopted=True)

    def _differences(self, found: Any, *, moved: bool) -> list[Difference]:
        """Compare the description with what is there; the variants are read where they are described."""
        variants = self.client.send(self.calls.variants(found.id)) if needs_variants(self.wanted, found) else None
        return differences(self.wanted, found, variants=variants, moved=moved)

    def _update(self, found: Any, different: Sequence[Difference], *, moved: bool) -> Outcome:
        """Send what differs and may be changed; where a write is lost, read again and decide anew."""
        sent: set[str] = set()
        for attempt in range(1, ATTEMPTS + 1):
            plan = self._plan(found, different)
            try:
                written = self._send_update(found, plan)
                break
            except AmplitudeError as error:
                self._raise_or_wait(error, attempt)
            sent.update(plan.arguments)
            found = merged(found, self._read(found.id))
            different = self._differences(found, moved=moved)
        alone = f"; left alone, as Amplitude does not show it: {', '.join(plan.left_alone)}" if plan.left_alone else ""
        updated = tuple(sorted(sent | set(plan.arguments)))
        if not updated:
            return Outcome(words=f"stands as described{alone}", found=found, adopted=True)
        if not written:
            words = f"would be updated: {', '.join(updated)} (read-only, not sent){alone}"
            return Outcome(words=words, found=found, adopted=True)
        now = self._read_back(found, self._left_of_update)
        words = f"updated {', '.join(updated)}{alone}"
        return Outcome(words=words, found=now, adopted=True, updated=updated, written=True)

    def _plan(self, found: Any, different: Sequence[Difference]) -> adopt.Update:
        """Decide the update; the versions are read only where it matters whether anybody was ever served."""
        changes = [*different, *adopt.changes_of_second_call(self.wanted, found)]
        moving = any(each.moves_users and each.shown for each in changes)
        served = ever_served(self.client, self.calls, found) if moving else found.enabled is not False
        return adopt.update(self.wanted, found, different, served=served)

    def _send_update(self, found: Any, plan: adopt.Update) -> bool:
        """Send every call of an update; false where the connection is read-only, and so none was sent."""
        written = True
        for call in plan.calls(self.calls, found.id):
            try:
                self._send(call, found)
            except AmplitudeReadOnly:
                written = False
        return written

    def _left_of_update(self, now: Any) -> list[Difference]:
        return [*self._differences(now, moved=True), *adopt.changes_of_second_call(self.wanted, now)]

    # --- sending and reading again -----------------------------------------------------------------------------

    def _send(self, call: Call[Any], found: Any = None) -> Any:
        """Send one write, with a line of the audit before it and one after it."""
        with self.audit.around(**self._line(Write.of(call, dialect=self.client.dialect), found)):
            return self.client.send(call, reason=self.reason, found=found)

    def _line(self, write: Write, found: Any) -> dict[str, Any]:
        """Return what the audit says of a write."""
        fields = write.arguments
        stands = 0 if found is None else found.rollout_percentage
        switch = {"enabled": {"from": found.enabled, "to": fields["enabled"]}} if "enabled" in fields else {}
        return {
            "kind": self.wanted.kind,
            "key": self.wanted.key,
            "id": getattr(found, "id", None),
            "project_id": getattr(found, "project_id", None) or self.project,
            "before": stands,
            "after": fields.get("rollout_percentage", stands),
            "raises": may_raise(write, found),
            "call": write.call.endpoint,
            "fields": sorted(fields.keys() - {"id", "project_id", "key"}),
            **switch,
        }

    def _read(self, object_id: str) -> Any:
        return self.client.send(self.calls.get(object_id))

    def _raise_or_wait(self, error: AmplitudeError, attempt: int) -> None:
        """Wait before another look, where a write may have been applied and attempts are left; raise it elsewhere."""
        if not error.maybe_applied or attempt == ATTEMPTS:
            raise error
        self.log.warning("%s Reading %s again.", error, self.wanted)
        time.sleep(SECONDS_BEFORE_ANOTHER_LOOK[0])

    def _read_back(self, found: Any, remaining: Callable[[Any], Sequence[Difference]]) -> Any:
        """Read back, once more after a moment where it differs, and fail where it still does (law 1)."""
        now = merged(found, self._read(found.id))
        if any(each.shown for each in remaining(now)):
            time.sleep(SECONDS_BEFORE_ANOTHER_LOOK[1])
            now = merged(found, self._read(found.id))
            self._refuse_unconfirmed(now, remaining(now))
        return now

    def _refuse_unconfirmed(self, found: Any, left: Sequence[Difference]) -> None:
        if shown := [str(each) for each in left if each.shown]:
            raise AmplitudeNotConfirmed(
                f"{self.wanted} (id {found.id}) was written, but does not stand as asked: {'; '.join(shown)}."
            )
