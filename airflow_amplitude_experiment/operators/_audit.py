"""The audit log: who changed what in Amplitude, when and why, so that a rollout can be told from it alone.

Each write leaves two lines, what is about to be sent and what became of it: in the task's log, and, where the setting
``[amplitude_experiment] audit_path`` names a place, as one object each, which nobody overwrites. What goes up is not
sent where that place can't be written. What goes down neither fails nor waits for it (law 10).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from contextlib import contextmanager
from datetime import UTC, datetime
from secrets import token_hex
from typing import TYPE_CHECKING, Any, Self

from airflow.providers.common.compat.sdk import AirflowException

from ._way_down import aside

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

PREFIX = "AUDIT"
SECTION, SETTING = "amplitude_experiment", "audit_path"
LONGEST_PART = 55
"""Characters of a DAG's, run's or task's id in an object's name; many file systems allow 255 in all."""

SECONDS_TO_OPEN = 2.0
SECONDS_FOR_A_RAISE = 60.0
SECONDS_FOR_THE_REST = 10.0
"""So long a task waits for the audit place: at its start, before it sends what goes up, after it sent anything."""


class Audit:
    """The audit lines of one task.

    :param facts: where the writes come from.
    :param more: who and why.
    :param place: URI of the folder or bucket that gets the lines, if any.
    :param log: the task's logger.
    """

    def __init__(self, facts: Mapping[str, Any], more: Mapping[str, Any], *, place: str | None, log: Any) -> None:
        self._facts = dict(facts)
        self._more = dict(more)
        self._place = place
        self._log = log
        self._under_way: list[Future[None]] = []
        if place:
            # Opening it may ask Airflow for a connection, which the worker of 3.1 does for one thread at a time.
            self._opening = aside(_opened, place)
            wait_for([self._opening], timeout=SECONDS_TO_OPEN)

    @classmethod
    def of(cls, context: Context, *, environment: str | None, reason: str | None, log: Any) -> Self:
        """Begin the audit of a task.

        :param environment: as the connection names it.
        :param reason: why the task writes.
        """
        from airflow.providers.common.compat.sdk import conf

        instance: Any = context["ti"]
        run: Any = context.get("dag_run")
        map_index = getattr(instance, "map_index", None)
        facts = {
            "environment": environment,
            "dag_id": getattr(instance, "dag_id", None) or getattr(run, "dag_id", None),
            "run_id": getattr(instance, "run_id", None) or getattr(run, "run_id", None),
            "task_id": getattr(instance, "task_id", None),
            "map_index": -1 if map_index is None else map_index,
            "try_number": instance.try_number,
        }
        run_type = getattr(run, "run_type", None)
        more = {
            "reason": reason,
            "run_type": getattr(run_type, "value", run_type),
            "triggered_by": getattr(run, "triggering_user_name", None),
        }
        return cls(facts, more, place=conf.get(SECTION, SETTING, fallback=None) or None, log=log)

    def facts(self) -> dict[str, Any]:
        """Return where a write comes from, for its record."""
        return dict(self._facts)

    def intent(
        self,
        *,
        kind: str,
        key: str | None,
        id: str | None,
        project_id: str | None,
        before: Any,
        after: Any,
        raises: bool,
        **more: Any,
    ) -> None:
        """Say what is about to be sent.

        :param before, after: percentages.
        :param raises: whether more people may get something.
        :raises AirflowException: it goes up, and the audit place can't be written; another try may.
        """
        stored = self._tell("intent", _what(kind, key, id, project_id, before, after, raises), more)
        if stored is None:
            return
        if not raises:
            self._under_way.append(stored)
        elif problem := _problem(stored, SECONDS_FOR_A_RAISE):
            raise AirflowException(
                f"{kind} {key}: the audit log {self._place} can't be written, so nothing goes up: {problem}. "
                "Nothing was sent."
            )

    def result(
        self,
        *,
        kind: str,
        key: str | None,
        id: str | None,
        project_id: str | None,
        before: Any,
        after: Any,
        outcome: str,
        raises: bool,
        wait: bool = True,
        **more: Any,
    ) -> None:
        """Say what became of it; a place that can't be written is no more than a warning now.

        :param outcome: ``written`` (and read back), ``accepted`` (not yet read back), or why not.
        :param wait: until the line is kept, or can't be; otherwise ``settle`` is called in the end.
        """
        what = _what(kind, key, id, project_id, before, after, raises)
        stored = self._tell("result", what | {"outcome": outcome}, more)
        if stored is None:
            return
        self._under_way.append(stored)
        if wait:
            self.settle()

    @contextmanager
    def around(self, **line: Any) -> Iterator[None]:
        """Note a write that is sent inside the block: its intent before it, and what became of it after it."""
        self.intent(**line)
        try:
            yield
        except Exception as error:
            self.result(**line, outcome=failure(error))
            raise
        self.result(**line, outcome="accepted")

    def settle(self) -> None:
        """Wait a little until every line is kept; warn of those that are not."""
        waiting, self._under_way = self._under_way, []
        wait_for(waiting, timeout=SECONDS_FOR_THE_REST)
        if problems := [problem for each in waiting if (problem := _problem(each, 0))]:
            lost, first = len(problems), problems[0]
            self._log.warning("%s audit line(s) could not be kept in %s: %s", lost, self._place, first)

    def _tell(self, step: str, what: dict[str, Any], more: Mapping[str, Any]) -> Future[None] | None:
        """Write one line into the task's log, and begin to write it to the audit place where there is one."""
        now = datetime.now(UTC)
        line = {"step": step, "at": now.isoformat(timespec="milliseconds"), **what, **more, **self._more, **self._facts}
        text = json.dumps(line, default=str, ensure_ascii=False, separators=(",", ":"))
        self._log.info("%s %s", PREFIX, text)
        return aside(_keep, self._opening, self._name(now, step), text) if self._place else None

    def _name(self, now: datetime, step: str) -> str:
        """Return a new object's name: it sorts by time, says where it comes from, and is like no other."""
        facts = self._facts
        ids = [re.sub(r"[^\w.-]+", "_", str(facts[name]), flags=re.ASCII) for name in ("dag_id", "run_id", "task_id")]
        parts = [*(each[-LONGEST_PART:] for each in ids), facts["map_index"], facts["try_number"], step, token_hex(8)]
        return f"{now:%Y-%m-%d}/{now:%Y%m%dT%H%M%S.%fZ}_{'_'.join(map(str, parts))}.json"


def _what(
    kind: str, key: str | None, id: str | None, project_id: str | None, before: Any, after: Any, raises: bool
) -> dict[str, Any]:
    return {
        "kind": kind,
        "key": key,
        "id": id,
        "project_id": project_id,
        "from": before,
        "to": after,
        "raises": raises,
    }


def failure(error: Exception) -> str:
    """Return why a write did not end well; what the API answered may hold ids of users, and stays out."""
    from airflow_amplitude_experiment.api.errors import AmplitudeError, AmplitudeReadOnly, RolloutRefused

    if isinstance(error, AmplitudeReadOnly):
        return "not sent: the connection is read-only"
    if isinstance(error, RolloutRefused):
        return f"refused: {error}"
    if not isinstance(error, AmplitudeError):
        return f"failed: {type(error).__name__}"
    status = f" {error.status}" if error.status else ""
    return f"failed: {type(error).__name__}{status}{', may have been applied' if error.maybe_applied else ''}"


def _opened(place: str) -> Any:
    """Return the place, ready to be written to."""
    from airflow.providers.common.compat.sdk import ObjectStoragePath

    path = ObjectStoragePath(place)
    path.fs  # noqa: B018  looks up the connection and the store's own library
    return path


def _keep(opening: Future[Any], name: str, text: str) -> None:
    """Write one object, which must not be there yet. Secrets that Airflow knows are masked, as they are in a log."""
    from airflow.sdk.log import redact  # type: ignore[attr-defined]  # public, but not re-exported for mypy

    path, content = opening.result() / name, f"{redact(text)}\n".encode()
    try:
        _write_new(path, content)
    except FileNotFoundError:  # a file system wants its folders first; a bucket has none
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_new(path, content)


def _write_new(path: Any, content: bytes) -> None:
    try:
        file = path.open("xb")
    except (NotImplementedError, ValueError):  # a store that knows no "only if new"; the random name is new anyway
        file = path.open("wb")
    with file:
        file.write(content)


def _problem(stored: Future[None], seconds: float) -> str | None:
    """Return why a line was not kept, after so long at most."""
    wait_for([stored], timeout=seconds)
    if not stored.done():
        return "it does not answer"
    error = stored.exception()
    return f"{type(error).__name__}: {error}" if error else None
