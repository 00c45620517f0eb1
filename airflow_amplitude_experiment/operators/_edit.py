"""One task's writes to one object: noted in the audit, sent within the connection's rules, read back, reported.

What is written, and whether it may be, each operator decides; how a write is made is the same for all of them, and
stands here once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

from airflow_amplitude_experiment.api import AmplitudeError, AmplitudeNotConfirmed, AmplitudeReadOnly, Call
from airflow_amplitude_experiment.hooks.guard import GuardedClient
from airflow_amplitude_experiment.hooks.moves import may_raise
from airflow_amplitude_experiment.hooks.projects import CALLS
from airflow_amplitude_experiment.hooks.write import Write

from ._assets import announce
from ._audit import Audit

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from ._base import AmplitudeOperator

T = TypeVar("T")

NAMESPACES = {"flag": "flags", "experiment": "experiments", "mutex group": "mutexes", "holdout group": "holdouts"}
ATTEMPTS = 3
SECONDS_BEFORE_ANOTHER_LOOK = 1.0
"""After a write whose fate is unknown, and after a read-back that differs: reads may lag behind."""


class Edit:
    """One task's dealings with one flag, experiment or group.

    :param kind: ``flag``, ``experiment``, ``mutex group`` or ``holdout group``.
    :param found: the object as it was read before anything was decided; ``None`` where it is to be created.
    :param name: the object in words, for logs and errors.
    """

    def __init__(
        self, operator: AmplitudeOperator, context: Context, client: GuardedClient, *, kind: str, found: Any, name: str
    ) -> None:
        self.client = client
        self.kind = kind
        self.found = found
        self.name = name
        self.log = operator.log
        self.written = False
        self._stood = getattr(found, "rollout_percentage", None)
        self._reason = operator.reason
        self._context = context
        self._audit = Audit.of(context, environment=client.rules.environment, reason=operator.reason, log=operator.log)

    @property
    def calls(self) -> Any:
        """The calls on this kind of object."""
        return CALLS[NAMESPACES[self.kind]]

    def read(self) -> Any:
        """Read the object again, and keep it: the fields of both answers, because a list shows what details don't."""
        now = self.client.send(self.calls.get(self.found.id))
        self.found = type(self.found).model_validate({**self.found.as_json(), **now.as_json()})
        return self.found

    def send(self, call: Call[Any], **facts: Any) -> Any:
        """Send one write and return its answer, with a line of the audit before it and one after it.

        :param facts: what the audit says besides; never an id of a user.
        :raises RolloutRefused: a rule of the connection or the freeze forbids it; nothing was sent.
        :raises AmplitudeReadOnly: the connection is read-only; the log says what would be sent.
        :raises AmplitudeError: it failed; ``maybe_applied`` where its fate is unknown.
        """
        with self._audit.around(**self._line(call), **facts):
            answer = self.client.send(call, reason=self._reason, found=self.found)
        self.written = True
        return answer

    def unless_read_only(self, write: Callable[[], Any]) -> bool:
        """Write, and return whether that was sent: a read-only connection sends nothing, and says what it would."""
        try:
            write()
        except AmplitudeReadOnly:
            return False
        return True

    def again_where_lost(self, step: Callable[[], T]) -> T:
        """Do a step again after a write whose fate is unknown; the step reads before it decides what to send."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return step()
            except AmplitudeError as error:
                if not error.maybe_applied or attempt == ATTEMPTS:
                    raise
                self.log.warning("%s Reading %s again.", error, self.name)
                time.sleep(SECONDS_BEFORE_ANOTHER_LOOK)
        raise AssertionError  # the last attempt returns or raises

    def confirm(self, left: Callable[[], Sequence[str]]) -> None:
        """Read back, once more after a moment where it differs, and fail where it still does (law 1).

        :param left: reads, and says what does not stand as it was written, in words.
        :raises AmplitudeNotConfirmed: names all of that; an approval may be pending in Amplitude.
        """
        if not left():
            return
        time.sleep(SECONDS_BEFORE_ANOTHER_LOOK)
        if different := left():
            raise AmplitudeNotConfirmed(
                f"{self.name} was written, but does not stand as asked: {'; '.join(different)}."
            )

    def record(self, **facts: Any) -> dict[str, Any]:
        """Return the task's record, and announce the object as an asset where something was written.

        :param facts: what this operator adds; never an id of a user.
        """
        found = self.found
        record = {
            "kind": self.kind,
            "key": getattr(found, "key", None),
            "id": getattr(found, "id", None),
            "project_id": getattr(found, "project_id", None),
            **facts,
            "written": self.written,
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "reason": self._reason,
            **self._audit.facts(),
        }
        if self.written and record["key"]:
            enabled, stands = getattr(found, "enabled", None), getattr(found, "rollout_percentage", None)
            announce(self._context, {**record, "enabled": enabled, "before": self._stood, "after": stands})
        return record

    def _line(self, call: Call[Any]) -> dict[str, Any]:
        """Return what the audit says of a write."""
        write = Write.of(call, dialect=self.client.dialect)
        fields = write.arguments
        stands = getattr(self.found, "rollout_percentage", None)
        return {
            "kind": self.kind,
            "key": next(iter(write.keys(self.found)), None),
            "id": getattr(self.found, "id", None),
            "project_id": write.project_of(self.found),
            "before": stands,
            "after": fields.get("rollout_percentage", stands),
            "raises": may_raise(write, self.found),
            "call": call.endpoint,
        }
