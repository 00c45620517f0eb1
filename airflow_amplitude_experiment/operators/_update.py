"""What an update task does: compare, decide, send what differs in one request, read back.

Apart from the operator because it is loaded when a task runs, not when a DAG is parsed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from airflow_amplitude_experiment.api import RolloutRefused
from airflow_amplitude_experiment.rollout.description import Difference, Wanted, differences
from airflow_amplitude_experiment.rollout.ramp import last_change
from airflow_amplitude_experiment.rollout.segments import (
    is_running_bandit,
    percentages_to_move,
    rewritten,
    segment_named,
    with_changes,
)
from airflow_amplitude_experiment.rollout.weights import segments_move_users

from ._described import ARGUMENTS
from ._edit import Edit
from ._served import ever_served

RAMP = "AmplitudeRampRolloutOperator(segment=…)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is asked for, checked, by the API's names.

    :param fields: what is to stand there; ``None`` for nothing. Segments may lack parts.
    :param segment: the one target segment of which ``changes`` changes something.
    :param reshuffle: why users may move between variants.
    """

    fields: Mapping[str, Any]
    add_tags: Sequence[str] = ()
    remove_tags: Sequence[str] = ()
    segment: str | None = None
    changes: Mapping[str, Any]
    reshuffle: str | None = None

    @property
    def needs_tags(self) -> bool:
        """Whether the tags that are there must be known."""
        return bool(self.add_tags or self.remove_tags)


class Update:
    """One task's update of one object."""

    def __init__(self, edit: Edit, order: Order) -> None:
        self._edit = edit
        self._order = order
        self._sent: dict[str, Any] = {}
        self._updated: set[str] = set()
        self._unverified: list[str] = []
        self._removed: list[str] = []

    def run(self) -> dict[str, Any]:
        """Write, read back, report.

        :raises RolloutRefused: what stands against it, and what to do.
        :raises AmplitudeNotConfirmed: reading back shows something else than what was sent.
        """
        edit = self._edit
        sent = edit.unless_read_only(lambda: edit.again_where_lost(self._write))
        updated = sorted(ARGUMENTS[name] for name in self._updated)
        if sent and updated:
            edit.confirm(self._left)
            edit.written = True  # also where the answer was lost, and reading again found it done
        edit.log.info("%s: %s", edit.name, self._in_words(", ".join(updated), sent=sent))
        return edit.record(
            updated=updated,
            unverified=self._unverified,
            segments_removed=self._removed,
            reshuffle=self._order.reshuffle,
        )

    def _write(self) -> None:
        """Decide on what was read last, and send it."""
        edit, why = self._edit, self._order.reshuffle
        asked = {*self._order.fields, *(["tags"] if self._order.needs_tags else ())}
        if self._updated or not all(map(edit.found.has, asked)):  # a list shows less than details do
            edit.read()
        self._sent = self._patch()
        self._updated |= self._sent.keys()
        if self._sent:
            facts = {"fields": sorted(self._sent)} | ({"reshuffle": why} if why else {})
            edit.send(edit.calls.update(edit.found.id, **self._sent), **facts)

    def _patch(self) -> dict[str, Any]:
        """Return the fields that differ, as they are sent.

        :raises RolloutRefused: one of them may not change, or a list can't be written back.
        """
        found = self._edit.found
        if found.deleted:
            raise self._refused("is archived.", "Restore it first, or use another key.")
        wanted = {**self._order.fields, **self._tags(), **self._segments()}
        different = self._differences(wanted)
        patch = {name: wanted[name] for name in wanted if name in {each.argument for each in different}}
        if "target_segments" in patch:
            patch["target_segments"] = self._segments_to_write()
        self._refuse_what_moves_users(patch, different)
        self._refuse_what_nobody_resolves(patch)
        return patch

    def _differences(self, wanted: Mapping[str, Any]) -> list[Difference]:
        found = self._edit.found
        return differences(Wanted(kind=self._edit.kind, key=found.key, post=wanted, patch={}), found)  # type: ignore[arg-type]  # an operator names no group

    def _tags(self) -> dict[str, Any]:
        """Return the whole list of tags, where some are to be added or taken away (E24)."""
        order, there = self._order, self._edit.found.tags
        if not order.needs_tags:
            return {}
        if there is None:
            raise self._refused(
                "does not show its tags. Amplitude replaces the whole list, so those that are there would be lost.",
                "Give the whole list (tags=…), or change them in Amplitude.",
            )
        return {"tags": [tag for tag in dict.fromkeys([*there, *order.add_tags]) if tag not in order.remove_tags]}

    def _segments(self) -> dict[str, Any]:
        """Return the segments to compare with those there; of one that stays as it is, no more than its name."""
        found, wanted = self._edit.found, self._order.fields.get("target_segments")
        if self._order.segment is not None:
            changed = segment_named(found, self._name_of_segment())
            new = {"name": changed.name, **self._order.changes}
            wanted = [new if each is changed else {"name": each.name} for each in found.target_segments]
        elif wanted and (moved := list(percentages_to_move(found, wanted))):
            raise self._refused(f"keeps its percentages: {'; '.join(moved)}.", f"Leave it out; {RAMP} moves it.")
        return {} if wanted is None else {"target_segments": wanted}

    def _segments_to_write(self) -> list[dict[str, Any]]:
        """Return the whole list as the API takes it, with all that is there and stays (law 6)."""
        found, wanted = self._edit.found, self._order.fields.get("target_segments")
        if found.target_segments is None:
            raise self._refused("does not show its target segments.", "Change them in Amplitude.")
        if wanted is None:
            return with_changes(found, self._name_of_segment(), self._order.changes)
        written = rewritten(found, wanted)
        names = {each["name"] for each in written}
        self._removed = [each.name for each in found.target_segments if each.name not in names]
        return written

    def _name_of_segment(self) -> str:
        """Return the name of the segment to change; an earlier try may have renamed it."""
        old, new = self._order.segment, self._order.changes.get("name")
        names = [each.name for each in self._edit.found.target_segments or ()]
        return str(new if old not in names and new in names else old)

    def _refuse_what_moves_users(self, patch: Mapping[str, Any], different: Sequence[Difference]) -> None:
        """Refuse what moves users between variants, unless nobody was ever served, or it is meant (law 5)."""
        found = self._edit.found
        fields = [each for each in different if each.argument != "target_segments"]
        moving = [str(each) for each in fields if each.moves_users]
        if "target_segments" in patch and segments_move_users(found, patch["target_segments"]):
            moving.append("target_segments: some users would be split by other weights or another bucketing key")
        if not moving:
            return
        if is_running_bandit(found):
            raise self._refused(
                f"is a running bandit, whose traffic Amplitude moves itself: {'; '.join(moving)}.", "Disable it first."
            )
        if not self._order.reshuffle and ever_served(self._edit.client, self._edit.calls, found):
            raise self._refused(
                f"was enabled before, and this moves users between variants: {'; '.join(moving)}.",
                "If that is meant, say why: reshuffle=….",
            )

    def _refuse_what_nobody_resolves(self, patch: Mapping[str, Any]) -> None:
        """Refuse local evaluation by Amplitude id, also where one half of it is there already (E15)."""
        found = self._edit.found
        mode = str(patch.get("evaluation_mode", found.evaluation_mode)).lower()
        key = patch.get("bucketing_key", found.bucketing_key)
        if patch.keys() & {"evaluation_mode", "bucketing_key"} and (mode, key) == ("local", "amplitude_id"):
            raise self._refused(
                "would be evaluated locally and bucketed by amplitude_id, which gives everyone 'off': local evaluation "
                "can't resolve Amplitude ids.",
                "Bucket by user_id or device_id.",
            )

    def _left(self) -> list[str]:
        """Read back, and say what does not stand as asked; of segments, what does not stand as it was sent."""
        self._edit.read()
        segments = {name: self._sent[name] for name in self._sent if name == "target_segments"}
        fields = {name: value for name, value in self._order.fields.items() if name != "target_segments"}
        left = self._differences({**fields, **self._tags(), **segments})
        self._unverified = sorted(ARGUMENTS[each.argument] for each in left if not each.shown)
        return [str(each) for each in left if each.shown]

    def _in_words(self, updated: str, *, sent: bool) -> str:
        if not updated:
            return "stands as asked, nothing to do"
        if not sent:
            return f"would be updated: {updated} (read-only, not sent)"
        removed = f"; segments removed: {', '.join(map(repr, self._removed))}" if self._removed else ""
        hidden = ", ".join(self._unverified)
        unverified = f"; can't be verified, as Amplitude does not show it: {hidden}" if hidden else ""
        return f"updated {updated}{removed}{unverified}"

    def _refused(self, what: str, advice: str) -> RolloutRefused:
        found = self._edit.found
        where = f"id {found.id}, project {found.project_id}"
        return RolloutRefused(f"{self._edit.name} ({where}) {what}{last_change(found)} Nothing was written. {advice}")
