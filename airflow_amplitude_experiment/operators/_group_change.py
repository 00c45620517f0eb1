"""One change of who is in a part of a group: what is sent, what forbids it, what stands afterwards.

A part is a slot of a mutex group, or a holdout group as a whole. Its lists are only written whole, so they are read,
changed, written back, and read again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from airflow_amplitude_experiment.api import RolloutRefused
from airflow_amplitude_experiment.api._checks import short

from ._edit import Edit
from ._members import KINDS, Members

PEOPLE = ("individuals", "individual_inclusion", "individual_exclusion")
"""Lists of user ids: counted, never named."""

LISTS = (*KINDS, *PEOPLE)
TEXTS = ("name", "description")
_COUNTED = {
    "experiments": ("experiment", "experiments"),
    "holdouts": ("holdout group", "holdout groups"),
    "individuals": ("individual", "individuals"),
    "individual_inclusion": ("person always held out", "people always held out"),
    "individual_exclusion": ("person never held out", "people never held out"),
}


class Change:
    """What an update does to one part of a group: a slot, or a holdout group as a whole.

    :raises RolloutRefused: there is no such slot, a key names nothing, or Amplitude does not show a list.
    """

    def __init__(self, edit: Edit, order: Mapping[str, Any], members: Members) -> None:
        self.edit = edit
        self.index = order.get("slot")
        self.members = members
        part = self._part()
        self.before = {side: list(getattr(part, side)) for side in LISTS if getattr(part, side, None) is not None}
        asked = [side for side in LISTS if side in order]
        if hidden := [side for side in asked if side not in self.before]:
            raise self._refused(
                f"Amplitude does not show its {', '.join(hidden)}, and a list is only written whole",
                "Change it in Amplitude.",
            )
        self.after = dict(self.before)
        for side in asked:
            ids = members.ids(side, order[side]) if side in KINDS else list(dict.fromkeys(order[side]))
            self.after[side] = _changed(self.before[side], ids, order.get("mode", "add"))
        texts = {name: order[name] for name in TEXTS if name in order}
        self.texts = {name: text for name, text in texts.items() if text != getattr(edit.found, name)}

    @property
    def fields(self) -> dict[str, Any]:
        """What is sent: lists that change, each whole, and texts."""
        return {side: self.after[side] for side in self.before if self._coming(side) or self._going(side)} | self.texts

    def refuse_unfit(self, *, while_running: bool) -> list[str]:
        """Refuse what must not be written; return which members run, where moving them is meant.

        :raises RolloutRefused: why, and what to do.
        """
        coming = {side: self._coming(side) for side in self.before}
        if self.fields.keys() - self.texts.keys() and (cohorts := getattr(self._part(), "cohorts", None)):
            raise self._refused(
                f"it holds {len(cohorts)} cohort(s), which the API shows and can't write; they might be lost",
                "Change this slot in Amplitude.",
            )
        self.members.refuse_unfit(coming, mode=self.edit.found.evaluation_mode)
        self._refuse_people_twice(coming)
        moving = {side: [*coming[side], *self._going(side)] for side in self.before}
        return self.members.refuse_running(moving, while_running=while_running)

    def send(self) -> None:
        """Write."""
        found, calls = self.edit.found, self.edit.calls
        call = (
            calls.update(found.id, **self.fields)
            if self.index is None
            else calls.update_slot(found.id, self.index, **self.fields)
        )
        self.edit.send(call, **({} if self.index is None else {"slot": self.index}), **self._moved())

    def left(self) -> list[str]:
        """Read back, and say what does not stand as it was written, or was lost beside it."""
        now = self.edit.read()
        part = self._part()
        different = [
            f"{name} is {short(getattr(now, name))}" for name in self.texts if getattr(now, name) != self.texts[name]
        ]
        for side, wanted in self.after.items():
            there = getattr(part, side) or []
            for what, ids in (("lacks", without(wanted, there)), ("still holds", without(there, wanted))):
                if ids:
                    different.append(f"it {what} {self._told({side: ids})}")
        return different

    def in_words(self) -> str:
        """Say what was done, for the log."""
        if not self.fields:
            return f"stands as asked, nothing is written: {in_words(self._part())}"
        parts = []
        for word, ids in (("added", self._sides(self._coming)), ("removed", self._sides(self._going))):
            parts += [f"{word} {self._told(ids)}"] if ids else []
        parts += [f"changed {name}" for name in self.texts]
        done = "; ".join(parts)
        if not self.edit.written:
            return f"would be changed (read-only, not sent): {done}"
        return f"{done}; now {in_words(self._part())}{self._shares()}"

    def facts(self) -> dict[str, Any]:
        """Return what the record says: members by id, people by number."""
        there = stands(self._part())
        which = {"slot": there.pop("index")} if self.index is not None else {}
        return {**which, **there, **self._moved(), "updated": sorted(self.texts)}

    def _part(self) -> Any:
        """Return the part that is changed: the slot of this index, or the holdout group itself."""
        if self.index is None:
            return self.edit.found
        slots = self.edit.found.slots or ()
        for slot in slots:
            if slot.index == self.index:
                return slot
        there = ", ".join(f"{each.index} ({each.percentage} %)" for each in slots)
        raise self._refused(f"there is no slot {self.index}", f"Its slots: {there or 'none are shown'}.")

    def _coming(self, side: str) -> list[str]:
        return without(self.after[side], self.before[side])

    def _going(self, side: str) -> list[str]:
        return without(self.before[side], self.after[side])

    def _sides(self, ids_of: Callable[[str], list[str]]) -> dict[str, list[str]]:
        return {side: ids for side in self.before if (ids := ids_of(side))}

    def _moved(self) -> dict[str, Any]:
        moved = {"added": self._sides(self._coming), "removed": self._sides(self._going)}
        return {word: {side: _shown(side, ids) for side, ids in sides.items()} for word, sides in moved.items()}

    def _told(self, ids: Mapping[str, Sequence[str]]) -> str:
        """Name members, and count people."""
        people = [counted(side, ids[side]) for side in PEOPLE if ids.get(side)]
        return ", ".join(filter(None, [self.members.names(ids), *people]))

    def _refuse_people_twice(self, coming: Mapping[str, Sequence[str]]) -> None:
        """Refuse a person in two slots, or always and never held out: only one of the two would count (F10)."""
        if self.index is not None:
            for slot in self.edit.found.slots or ():
                there = set(slot.individuals or ()) & set(coming.get("individuals", ()))
                if there:  # not this slot: who is in it already does not come
                    raise self._refused(
                        f"slot {slot.index} holds {counted('individuals', [*there])} of those given, and only the "
                        "first slot would count",
                        f"Remove them from slot {slot.index} first.",
                    )
        both = set(self.after.get("individual_inclusion", ())) & set(self.after.get("individual_exclusion", ()))
        if both and self.fields.keys() & {"individual_inclusion", "individual_exclusion"}:
            raise self._refused(
                f"{len(both)} of the people would be held out always and never at once",
                "Remove them from one list first.",
            )

    def _shares(self) -> str:
        """Say which newcomers get the people of several slots."""
        told = []
        for side in KINDS if self.index is not None else ():
            for member in self._coming(side):
                slots = [each for each in self.edit.found.slots if member in (getattr(each, side) or ())]
                if len(slots) > 1:
                    share = sum(each.percentage or 0 for each in slots)
                    where = ", ".join(str(each.index) for each in slots)
                    told.append(f"; {self.members.names({side: [member]})} is in slots {where}: {share} % of people")
        return "".join(told)

    def _refused(self, why: str, advice: str) -> RolloutRefused:
        slot = "" if self.index is None else f", slot {self.index}"
        return RolloutRefused(f"{self.edit.name}{slot}: {why}. Nothing was written. {advice}")


def _changed(before: Sequence[str], given: Sequence[str], mode: str) -> list[str]:
    """Return a list after a change."""
    if mode == "add":
        return [*before, *without(given, before)]
    if mode == "remove":
        return without(before, given)
    return list(given)


def without(ids: Iterable[str], others: Iterable[str]) -> list[str]:
    """Return the ids that are not among others, in their order."""
    taken = set(others)
    return [each for each in ids if each not in taken]


def parts_of(found: Any) -> list[Any]:
    """Return the slots of a mutex group in their order, or the holdout group itself."""
    return sorted(found.slots or (), key=lambda each: each.index or 0) if hasattr(found, "slots") else [found]


def _shown(side: str, ids: Sequence[str]) -> Any:
    return list(ids) if side in KINDS else len(ids)


def stands(part: Any) -> dict[str, Any]:
    """Return a part for a record: members by id, people by number."""
    facts = {name: getattr(part, name) for name in ("index", "percentage", "holdout_percentage") if hasattr(part, name)}
    return facts | {side: _shown(side, getattr(part, side) or ()) for side in LISTS if hasattr(part, side)}


def in_words(part: Any) -> str:
    """Return a part for the log: ``slot 1 (50 %): 2 experiments, 1 individual``."""
    counts = [counted(side, ids) for side in LISTS if (ids := getattr(part, side, None))]
    is_slot = hasattr(part, "index")
    name = f"slot {part.index} ({part.percentage} %)" if is_slot else f"{part.holdout_percentage} % held out"
    return f"{name}: {', '.join(counts) or 'nobody'}"


def counted(side: str, ids: Sequence[str]) -> str:
    """Return how many stand in a list, in words."""
    return f"{len(ids)} {_COUNTED[side][len(ids) != 1]}"
