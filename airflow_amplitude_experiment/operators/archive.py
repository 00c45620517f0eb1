"""Archive a flag or an experiment, or restore an archived one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow_amplitude_experiment.api._checks import boolean
from airflow_amplitude_experiment.api.errors import RolloutRefused

from ._base import AmplitudeEditOperator, given, is_known, project_named
from ._run import begun

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_amplitude_experiment.hooks.guard import Reading

    from ._edit import Edit


class Order(NamedTuple):
    """What is asked for: archived or not, also where that reaches people, and the context of the task that asks."""

    archive: bool
    while_enabled: bool
    context: Context


class AmplitudeArchiveOperator(AmplitudeEditOperator):
    """Archive one flag or experiment, or restore an archived one, found by its key or id either way.

    An archived object serves nobody and is out of Amplitude's lists; nothing of it is lost. One that is enabled takes
    its variants from everybody at once when it is archived, and gives them back at once when it is restored, so both
    are refused unless ``while_enabled``. What somebody archived while it was on, only a run that a person starts
    restores: not a scheduled one, and no retry or cleared task after somebody changed the object again.

    Amplitude itself refuses to archive what other flags depend on; its answer is shown. Where it stands as asked,
    nothing is written, and it costs two reads by key and one by id. Otherwise it is written once, and read back. A run
    of the past is skipped.

    :param archive: ``True`` archives, ``False`` restores.
    :param while_enabled: do it although the object is enabled.
    :param experiment_key, experiment_id, flag_key, flag_id: the object; exactly one.
    :param project_id: its project, where the connection names none.
    :param reason: why, for the log and the record.
    :param amplitude_conn_id: id of the Airflow connection.
    :raises AirflowFailException: refused, not confirmed by reading back, or an error that another try can't heal.
    :return: a record: ``kind``, ``key``, ``id``, ``project_id``, ``archived`` (with a read-only connection what it
        would be), ``enabled``, ``written``, ``at`` (UTC), ``reason``, and where it came from: ``environment``,
        ``dag_id``, ``run_id``, ``task_id``, ``map_index``, ``try_number``.

    Source: Management API, "Edit experiment" and "Edit flag" (``archive``, which reads back as ``deleted``).
    """

    template_fields: Sequence[str] = (*AmplitudeEditOperator.template_fields, "archive", "while_enabled")

    def __init__(self, *, archive: bool | str = True, while_enabled: bool | str = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.archive = archive
        self.while_enabled = while_enabled
        for argument in ("archive", "while_enabled"):
            if is_known(value := getattr(self, argument)):
                boolean(argument, value)

    def reading(self, client: Any) -> Reading[Any]:
        """Read the object, which may be archived."""
        from airflow_amplitude_experiment.hooks.lookup import by_key_archived_too

        if self.flag_key is None and self.experiment_key is None:
            return (yield from super().reading(client))
        project = project_named(self.project_id, client.rules.project_id)
        return (yield from by_key_archived_too(self.kind, self._name(), project))

    def order(self, context: Context) -> Order:
        """Return what is asked for, once templates are rendered."""
        while_enabled = boolean("while_enabled", given(self.while_enabled) or False)
        return Order(boolean("archive", self.archive), while_enabled, context)

    def edit(self, edit: Edit, order: Order) -> dict[str, Any]:
        """Write where it stands otherwise, and read back."""
        tried = False

        def write() -> None:
            nonlocal tried
            if tried:
                edit.read()
            if bool(edit.found.deleted) != order.archive:
                self._refuse_what_reaches_people(edit, order, again=tried)
                tried = True
                edit.send(edit.calls.update(edit.found.id, archive=order.archive), archives=order.archive)

        def left() -> list[str]:
            stands = bool(edit.read().deleted)
            return [] if stands == order.archive else [f"it is {'archived' if stands else 'not archived'}"]

        sent = edit.unless_read_only(lambda: edit.again_where_lost(write))
        if sent and tried:
            edit.confirm(left)
            edit.written = True  # also where the answer was lost, and reading again found it done
        self.log.info("%s: %s", edit.name, _in_words(order.archive, tried=tried, sent=sent))
        return edit.record(archived=order.archive, enabled=edit.found.enabled)

    def _refuse_what_reaches_people(self, edit: Edit, order: Order, *, again: bool) -> None:
        """Refuse what takes variants from people or gives them some, unless it is asked for by somebody."""
        from airflow_amplitude_experiment.rollout.ramp import last_change

        found = edit.found
        if found.enabled is False:
            return
        where = f"{edit.name} (id {found.id}, project {found.project_id})"
        stands = f"enabled at {found.rollout_percentage} %"
        if not order.while_enabled:
            what = f"is {stands}: archiving it takes its variants from everybody who has one, at once."
            advice = "Disable it first (AmplitudeKillSwitchOperator), or pass while_enabled=True."
            if not order.archive:
                what = f"is archived while {stands}: restored, it serves people at once."
                advice = "If that is meant, pass while_enabled=True."
            raise RolloutRefused(f"{where} {what}{last_change(found)} Nothing was written. {advice}")
        if not order.archive and (why := self._undoes_a_stop(edit, order.context, again=again)):
            raise RolloutRefused(
                f"{where} is archived while {stands}, and {why}: restoring it might undo somebody's stop. "
                "Nothing was written. To restore it, trigger a new run by hand."
            )

    def _undoes_a_stop(self, edit: Edit, context: Context, *, again: bool) -> str | None:
        """Say why restoring what then serves people is not this task's to do (law 9), or ``None``."""
        from airflow_amplitude_experiment.rollout.history import written_at

        if (run := begun(context)) is None:
            return None
        if not run.by_hand:
            return "nobody started this run"
        if not (again or run.again):
            return None
        moments = [written_at(version) for version in edit.client.send(edit.calls.versions(edit.found.id))]
        if any(moment is None or moment > run.since for moment in moments):
            return "somebody changed it since this run began"
        return None


def _in_words(archive: bool, *, tried: bool, sent: bool) -> str:
    done = "archived" if archive else "restored"
    if not sent:
        return f"would be {done} (read-only, not sent)"
    return done if tried else f"is {'archived' if archive else 'not archived'} already, nothing to do"
