"""Change what describes a flag or an experiment: everything but the switch, the percentages and the weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from airflow_amplitude_experiment.api import _checks as check

from ._base import AmplitudeEditOperator, given
from ._described import (
    ARGUMENTS,
    DESCRIBING,
    EXPERIMENTS_ONLY,
    as_text,
    check_what_is_known,
    checked,
    refuse_dates_of_the_task,
)

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from ._edit import Edit
    from ._update import Order

NOT_PATCHED = frozenset({"variants", "rollout_weights", "deployments"})
RAMPED = frozenset({"enabled", "rollout_percentage"})
FIELDS = {
    **{name: field for name, field in DESCRIBING.items() if name not in NOT_PATCHED | RAMPED},
    "target_segments": check.segments_in_part,
}
"""What one PATCH takes and no ramp, decision or archive does, by the API's names."""

CLEARED = {"description": "", "experiment_end_date": None, "exposure_event": None}
"""What can be taken away, and what then stands there."""

MORE = {
    "add_tags": check.tags,
    "remove_tags": check.tags,
    "segment": check.name,
    "segment_changes": check.segment_changes,
    "clear": check.list_of(check.one_of(*CLEARED)),
    "reshuffle": check.name,
}
NAMES = (*(ARGUMENTS[name] for name in FIELDS), *MORE)


class AmplitudeUpdateOperator(AmplitudeEditOperator):
    """Change fields of one flag or experiment: all that Amplitude's edit takes but switch, percentages and weights.

    Reads the object, sends only what differs in one request, and reads back. Where nothing differs that costs one
    read, or two where Amplitude's list does not show a field, such as the tags. A run of the past is skipped. An
    argument that is left out (``None``, or a template that renders to nothing) is neither sent nor compared.

    Some fields decide which variant a user gets: ``bucketing_key``, ``bucketing_salt``, ``bucketing_unit``,
    ``evaluation_mode``, ``sticky_bucketing``, ``experiment_type``, and target segments that split their users
    otherwise than the rest. Those of an object that was ever enabled change only with ``reshuffle="<why>"``, and
    those of a running bandit never.

    Lists are replaced as a whole by Amplitude, so what is there is read first and written back as it was read;
    where it holds what can't be written back, such as a cohort condition, nothing is written. A percentage stays as
    it is, always: :class:`AmplitudeRampRolloutOperator` moves it, and ``segment=…`` names the segment for it too.
    The switch, variants, weights, deployments, the decision and archiving have operators of their own.

    :param name, description: texts for people.
    :param tags: the whole list of tags, instead of those that are there.
    :param add_tags, remove_tags: tags that are there afterwards, or are not; the others stay. Refused where
        Amplitude does not show the tags that are there.
    :param target_segments: the whole list in its order, each ``{"name", "conditions", "rolloutWeights",
        "bucketingKey"}``. A part that is left out stays as it is; a segment that is not in the list is removed. A new
        one needs conditions and weights, and begins at 0 %, or at the ``percentage`` given where the object is
        disabled. One without conditions needs ``"everyone": True``.
    :param segment: name of one target segment to change, beside which all others stay, with
    :param segment_changes: its new ``name``, ``conditions``, ``rolloutWeights`` or ``bucketingKey``.
    :param evaluation_mode: ``local`` or ``remote``.
    :param bucketing_key, bucketing_salt, bucketing_unit: what users are told apart by.
    :param experiment_type: ``a-b-test`` or ``multi-arm-bandit``; this and all that follow for experiments only.
    :param experiment_start_date, experiment_end_date: ISO 8601, a date or a moment with a time zone; compared by
        their day in UTC. They start and end nothing in Amplitude. (``start_date`` is the task's own in Airflow.)
    :param sticky_bucketing: users who have a variant keep it.
    :param exposure_event: ``{"event_type": …, "filters": […]}``. Amplitude's documented answers do not show it; then
        it is sent every time, can't be verified, and the log says so.
    :param clear: names of arguments whose field is to be empty: ``description``, ``experiment_end_date``,
        ``exposure_event`` (back to Amplitude's own).
    :param reshuffle: why users may move between variants.
    :param experiment_key, experiment_id, flag_key, flag_id: the object; exactly one.
    :param project_id: its project, where the connection names none.
    :param reason: why, for the log and the record.
    :param amplitude_conn_id: id of the Airflow connection.
    :raises AirflowFailException: refused, not confirmed by reading back, or an error that another try can't heal.
    :return: a record: ``kind``, ``key``, ``id``, ``project_id``, ``updated`` (names of arguments; with a read-only
        connection those that would be), ``unverified`` (those of them that Amplitude does not show),
        ``segments_removed``, ``reshuffle``, ``written``, ``at`` (UTC), ``reason``, and where it came from:
        ``environment``, ``dag_id``, ``run_id``, ``task_id``, ``map_index``, ``try_number``.

    Source: Management API, "Edit experiment" and "Edit flag".
    """

    template_fields: Sequence[str] = (*AmplitudeEditOperator.template_fields, *NAMES)
    template_fields_renderers: ClassVar[dict[str, str]] = {
        "target_segments": "json",
        "segment_changes": "json",
        "exposure_event": "json",
    }

    def __init__(
        self,
        *,
        name: str | None = None,
        description: str | None = None,
        tags: Sequence[str] | str | None = None,
        add_tags: Sequence[str] | str | None = None,
        remove_tags: Sequence[str] | str | None = None,
        target_segments: Sequence[Mapping[str, Any]] | str | None = None,
        segment: str | None = None,
        segment_changes: Mapping[str, Any] | str | None = None,
        evaluation_mode: Literal["local", "remote"] | str | None = None,
        bucketing_key: str | None = None,
        bucketing_salt: str | None = None,
        bucketing_unit: str | None = None,
        experiment_type: Literal["a-b-test", "multi-arm-bandit"] | str | None = None,
        experiment_start_date: str | date | None = None,
        experiment_end_date: str | date | None = None,
        sticky_bucketing: bool | str | None = None,
        exposure_event: Mapping[str, Any] | str | None = None,
        clear: Sequence[str] | str | None = None,
        reshuffle: str | None = None,
        **kwargs: Any,
    ) -> None:
        refuse_dates_of_the_task(kwargs)
        super().__init__(**kwargs)
        self.name = name
        self.description = description
        self.tags = tags
        self.add_tags = add_tags
        self.remove_tags = remove_tags
        self.target_segments = target_segments
        self.segment = segment
        self.segment_changes = segment_changes
        self.evaluation_mode = evaluation_mode
        self.bucketing_key = bucketing_key
        self.bucketing_salt = bucketing_salt
        self.bucketing_unit = bucketing_unit
        self.experiment_type = experiment_type
        self.experiment_start_date = as_text("experiment_start_date", experiment_start_date)
        self.experiment_end_date = as_text("experiment_end_date", experiment_end_date)
        self.sticky_bucketing = sticky_bucketing
        self.exposure_event = exposure_event
        self.clear = list(clear) if isinstance(clear, tuple) else clear
        self.reshuffle = reshuffle
        values = self._values()
        if all(value is None for name, value in values.items() if name != "reshuffle"):
            raise ValueError(f"nothing to change is given; there are {', '.join(NAMES)}")
        self._check_together(values, check_what_is_known(values, {**FIELDS, **MORE}))

    def order(self, context: Context) -> Order:
        """Return what is asked for, once templates are rendered."""
        from ._update import Order

        values = self._values()
        read = checked(values, {**FIELDS, **MORE})
        self._check_together(values, read)
        cleared = {name: CLEARED[argument] for name, argument in ARGUMENTS.items() if argument in read.get("clear", ())}
        return Order(
            fields={**{name: read[name] for name in FIELDS if name in read}, **cleared},
            add_tags=read.get("add_tags", []),
            remove_tags=read.get("remove_tags", []),
            segment=read.get("segment"),
            changes=read.get("segment_changes", {}),
            reshuffle=read.get("reshuffle"),
        )

    def edit(self, edit: Edit, order: Order) -> dict[str, Any]:
        """Send what differs, and read back."""
        from ._update import Update

        return Update(edit, order).run()

    def _values(self) -> dict[str, Any]:
        """Return the arguments by the names of the API's fields."""
        return {name: getattr(self, ARGUMENTS.get(name, name)) for name in (*FIELDS, *MORE)}

    def _check_together(self, values: Mapping[str, Any], read: Mapping[str, Any]) -> None:
        """Refuse arguments that contradict each other.

        :param values: as they were given.
        :param read: those of them that are known.
        :raises ValueError: which ones, and what to do.
        """
        named = {ARGUMENTS.get(name, name) for name, value in values.items() if given(value) is not None}
        cleared = {*read.get("clear", ())}
        if self.kind == "flag" and (strange := sorted((named | cleared) & {*EXPERIMENTS_ONLY})):
            raise ValueError(f"{strange[0]} is a field of experiments; a flag has none")
        for one, others in (("tags", {"add_tags", "remove_tags"}), ("target_segments", {"segment"})):
            if one in named and named & others:
                raise ValueError(f"{one} is the whole list; give it, or {' and '.join(sorted(others))}, not both")
        if both := sorted(named & cleared):
            raise ValueError(f"{both[0]} is given, and is to be cleared; give one of the two")
        if both := sorted({*read.get("add_tags", ())} & {*read.get("remove_tags", ())}):
            raise ValueError(f"the tag {both[0]!r} is to be added and to be taken away; give one of the two")
        if ("segment" in named) != ("segment_changes" in named):
            raise ValueError("segment names a target segment, segment_changes says what changes in it; give both")
        if "percentage" in read.get("segment_changes", {}):
            raise ValueError("segment_changes: AmplitudeRampRolloutOperator(segment=…) moves a segment's percentage")
