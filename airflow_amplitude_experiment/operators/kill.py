"""Switch flags and experiments off, at once.

The one operator that nothing holds back (law 10: the way down is always open, and only down): no pace, no rule but
``read_only``, no question whether the run belongs to the past, no deferral. It is written for the person who reads
its log at 3 a.m.: from the first failure on, every object has a line that says what to click in Amplitude.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

from ._assets import announce
from ._base import AmplitudeOperator, project_named

if TYPE_CHECKING:
    import threading

    from airflow.providers.common.compat.sdk import Context

    from airflow_amplitude_experiment.hooks.lookup import Kind

KINDS: dict[str, tuple[Kind, ...]] = {
    "flag": ("flag",),
    "experiment": ("experiment",),
    "any": ("flag", "experiment"),
}


class AmplitudeKillSwitchOperator(AmplitudeOperator):
    """Switch flags and experiments off, all at once, and read back that they are.

    Sends ``enabled: false`` for every object that is not off, in parallel and unpaced, and changes nothing else; an
    object that still shows as enabled afterwards is set to 0 %. Whatever fails for a passing reason is tried every
    few seconds until ``rollback_deadline``, and one object that fails does not hold up the others. Only the
    connection's ``read_only`` stops it. It does not ask whether its run belongs to the past, and it never defers.

    Costs per kind one list before and one after, and one PATCH per object that is not off yet.

    :param keys: keys of the objects; a list, or a text of keys separated by commas. Keys that are not found fail the
        task after the others are off.
    :param key_prefix: instead of ``keys``: every object whose key begins so.
    :param kind: ``flag``, ``experiment`` or ``any``.
    :param max_objects: refuse, before anything is sent, where more objects match.
    :param dry_run: say what would be switched off, and send nothing.
    :param project_id: the objects' project, where the connection names none.
    :param rollback_deadline: how long to go on trying: ``"30m"``, ``"1h"``, seconds or a timedelta. While Amplitude
        answers 429, at least until five minutes after the next 00:00 UTC, when the day's quota is new.
    :param reason: why, for the log and the record.
    :param amplitude_conn_id: id of the Airflow connection.
    :raises AirflowFailException: refused, not found, or not off for a reason that another try can't heal.
    :raises AirflowException: not off at the deadline for a reason that may pass.
    :return: a record: ``objects`` (each ``key``, ``kind``, ``id``, ``project_id``, ``was_enabled``, ``enabled``,
        ``rollout_percentage``, ``written``), the keys ``switched_off``, ``already_off`` and ``would_switch_off``
        (dry run, read-only), ``dry_run``, ``at`` (UTC), ``reason``, and where it came from: ``environment``,
        ``dag_id``, ``run_id``, ``task_id``, ``map_index``, ``try_number``.

    Source: Management API, "Edit experiment" and "Edit flag" (``enabled``).
    """

    template_fields: Sequence[str] = (
        *AmplitudeOperator.template_fields,
        "keys",
        "key_prefix",
        "kind",
        "max_objects",
        "only_say",
        "project_id",
        "rollback_deadline",
    )
    ui_color = "#ffd9d2"
    writes_objects = True
    defers = False

    def __init__(
        self,
        *,
        keys: Sequence[str] | str | None = None,
        key_prefix: str | None = None,
        kind: Literal["flag", "experiment", "any"] | str = "any",
        max_objects: int | str = 10,
        dry_run: bool | str = False,
        project_id: str | int | None = None,
        rollback_deadline: str | float | timedelta = "1h",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if (keys is None) == (key_prefix is None):
            raise ValueError("Give exactly one of keys, key_prefix")
        self.keys = keys
        self.key_prefix = key_prefix
        self.kind = kind
        self.max_objects = max_objects
        self.only_say = dry_run  # dry_run is a method of every Airflow operator
        self.project_id = project_id
        as_seconds = rollback_deadline.total_seconds() if isinstance(rollback_deadline, timedelta) else None
        self.rollback_deadline = rollback_deadline if as_seconds is None else as_seconds
        self._stop: threading.Event | None = None
        if not holds_templates([keys, key_prefix, kind, max_objects, dry_run, self.rollback_deadline]):
            self._checked()

    def act(self, context: Context) -> dict[str, Any]:
        """Find, switch off, read back."""
        import threading

        from ._audit import Audit
        from ._kill import Kill, Order

        wanted = self._checked()
        self._stop = threading.Event()
        with self.hook.get_conn(paced=False) as client:
            project = project_named(self.project_id, client.rules.project_id)
            audit = Audit.of(context, environment=client.rules.environment, reason=self.reason, log=self.log)
            order = Order(**wanted, project_id=project, reason=self.reason)
            kill = Kill(client, order, audit, self.log, self._stop)
            kill.carry_out()
        record = kill.report()
        for change in kill.changes():
            announce(context, change)
        return record

    def on_kill(self) -> None:
        """Stop trying where somebody stops the task."""
        if self._stop is not None:
            self._stop.set()

    def _checked(self) -> dict[str, Any]:
        """Return what is asked for: once templates are rendered, and while the DAG is parsed where there are none.

        :raises ValueError: a value that can't be meant.
        """
        from airflow_amplitude_experiment.api._checks import Check, boolean, one_of

        one_of(*KINDS)("kind", self.kind)
        return {
            "keys": None if self.keys is None else keys_in(self.keys),
            "prefix": None if self.key_prefix is None else prefix_in(self.key_prefix),
            "kinds": KINDS[self.kind],
            "most": Check("a whole number of at least 1", at_least_one)("max_objects", self.max_objects),
            "dry_run": boolean("dry_run", self.only_say),
            "patience": timedelta(seconds=seconds_in(self.rollback_deadline)),
        }


def keys_in(given: Any) -> tuple[str, ...]:
    """Return the keys of a list, or of a text that a template rendered: a list, or separated by commas.

    :raises ValueError: there is none, or one is empty.
    """
    if isinstance(given, str):
        given = ast.literal_eval(given.strip()) if given.strip().startswith("[") else re.split(r"[,\n]", given)
    keys = tuple(dict.fromkeys(str(key).strip() for key in given))
    if not keys or any(key in ("", "None") for key in keys):
        raise ValueError(f"keys is {given!r}; every key must be named. Was one left out of the form or the conf?")
    return keys


def seconds_in(given: Any) -> float:
    """Return a duration like ``"30m"`` or ``"1h"``, or a number of seconds, as seconds.

    :raises ValueError: it is none, or not more than 0.
    """
    units = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
    parts = re.fullmatch(r"(\d{1,9}(?:\.\d+)?) ?([smhd]?)", str(given).strip())
    seconds = float(parts[1]) * units[parts[2]] if parts and not isinstance(given, bool) else 0.0
    if seconds <= 0:
        raise ValueError(f"rollback_deadline is {given!r}, but must be like '30m' or '1h', or a number of seconds")
    return seconds


def prefix_in(given: Any) -> str:
    """Return the prefix; one that would match everything is none."""
    if str(given).strip() in ("", "None"):
        raise ValueError(
            "key_prefix is empty and would switch everything off; was it left out of the form or the conf?"
        )
    return str(given).strip()


def at_least_one(given: Any) -> int:
    """Return a whole number that is not 0."""
    from airflow_amplitude_experiment.api._checks import whole

    if (number := whole(given)) < 1:
        raise ValueError
    return number


def holds_templates(values: Any) -> bool:
    """Whether something is only known when the task runs."""
    if isinstance(values, str):
        return "{{" in values or "{%" in values
    if isinstance(values, list | tuple):
        return any(holds_templates(each) for each in values)
    return not isinstance(values, int | float | None)
