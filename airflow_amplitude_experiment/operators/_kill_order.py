"""What a kill means: which objects are asked for, what forbids it, and what became of each. Nothing is sent here."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_amplitude_experiment.hooks.lookup import Kind

KINDS: dict[str, tuple[Kind, ...]] = {
    "flag": ("flag",),
    "experiment": ("experiment",),
    "any": ("flag", "experiment"),
}


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be switched off. Exactly one of ``keys`` and ``prefix`` is there."""

    keys: tuple[str, ...] | None
    prefix: str | None
    kinds: tuple[Kind, ...]
    most: int
    dry_run: bool = False
    project_id: str | None = None
    patience: timedelta = timedelta(hours=1)
    reason: str | None = None

    def __str__(self) -> str:
        names = f"whose key begins with {self.prefix!r}" if self.keys is None else ", ".join(self.keys)
        return f"{' or '.join(self.kinds)} {names}{f' in project {self.project_id}' if self.project_id else ''}"

    @property
    def needs_every_list(self) -> bool:
        """Whether what one list shows can't be judged without the other: how many match, and in which projects."""
        return self.keys is None or self.project_id is None or len(self.keys) * len(self.kinds) > self.most

    def matches(self, key: str) -> bool:
        """Whether an object of this key is meant."""
        return key.startswith(self.prefix) if self.prefix is not None else key in (self.keys or ())

    def missing(self, targets: Iterable[Target]) -> list[str]:
        """Return what was asked for and is not there."""
        seen = {target.found.key for target in targets}
        return [key for key in self.keys or () if key not in seen] or ([] if self.keys or seen else [f"{self.prefix}…"])

    def refuse_what_is_not_clear(self, targets: Sequence[Target]) -> None:
        """Refuse before anything is sent where more, or something else, would be switched off than was meant.

        :raises RolloutRefused: more objects match than allowed, or a key is found in several projects.
        """
        from airflow_amplitude_experiment.api import RolloutRefused
        from airflow_amplitude_experiment.hooks.lookup import refuse_several_projects

        if len(targets) > self.most:
            raise RolloutRefused(
                f"{len(targets)} objects match {self}, more than max_objects={self.most}: "
                f"{', '.join(str(target) for target in targets)}. Nothing was written. "
                f"If all of them are meant, start again with max_objects={len(targets)}."
            )
        projects: dict[str, list[str | None]] = {}
        for target in targets:
            projects.setdefault(target.found.key if self.keys else f"{self.prefix}…", []).append(
                target.found.project_id
            )
        for name, project_ids in projects.items():
            refuse_several_projects(name, project_ids)


@dataclass(slots=True)
class Target:
    """One object on its way off."""

    kind: Kind
    found: Any
    now: Any = None
    written: bool = False
    unsent: bool = False
    error: Exception | None = None

    def __str__(self) -> str:
        return f"{self.kind} {self.found.key}"

    @property
    def is_on(self) -> bool:
        """Whether it has to be switched off; a list that doesn't show the switch is no reason to spare it."""
        return self.found.enabled is not False

    @property
    def percentage(self) -> int | float | None:
        """Its rollout percentage, as last seen."""
        stands: int | float | None = (self.now or self.found).rollout_percentage
        return stands

    @property
    def still_on(self) -> bool:
        """Whether it was to be switched off, and is not known to be; what is archived reaches nobody."""
        if not self.is_on or self.unsent:
            return False
        return self.now is None or (self.now.enabled is not False and not self.now.deleted)

    def why_on(self) -> str:
        """Say why it may still reach people, and whom."""
        if self.now is None:
            return f"{self} may still be on: {self.error}"
        why = self.error or "Amplitude accepted the change and shows it as enabled; an approval may be pending there"
        if self.percentage != 0:
            return f"{self} is still on, at {self.percentage} %: {why}"
        sticky = getattr(self.now, "sticky_bucketing", None)
        kept = ", and users who have a variant keep it (sticky bucketing)" if sticky else ""
        return f"{self} is still on, at 0 %: target segments and included users still get it{kept}: {why}"

    def record(self) -> dict[str, Any]:
        """Return what was there and what is there now, as plain JSON."""
        stands = self.now or self.found
        return {
            "key": self.found.key,
            "kind": self.kind,
            "id": self.found.id,
            "project_id": self.found.project_id,
            "was_enabled": self.found.enabled,
            "enabled": stands.enabled,
            "rollout_percentage": stands.rollout_percentage,
            "written": self.written,
        }


def summary(targets: Sequence[Target]) -> dict[str, list[str]]:
    """Sort keys by what became of them."""
    return {
        "switched_off": [
            target.found.key for target in targets if target.is_on and not target.unsent and not target.still_on
        ],
        "already_off": [target.found.key for target in targets if not target.is_on],
        "would_switch_off": [target.found.key for target in targets if target.unsent],
    }


def in_words(lists: dict[str, list[str]]) -> str:
    """Write a summary as sentences; what is empty is left out, but for what was switched off."""
    shown = {name: keys for name, keys in lists.items() if keys or name == "switched_off"}
    return " ".join(
        f"{name.replace('_', ' ').capitalize()}: {', '.join(keys) or 'none'}." for name, keys in shown.items()
    )


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


def prefix_in(given: Any) -> str:
    """Return the prefix; one that would match everything is none."""
    if str(given).strip() in ("", "None"):
        raise ValueError(
            "key_prefix is empty and would switch everything off; was it left out of the form or the conf?"
        )
    return str(given).strip()


def at_least_one(given: Any) -> int:
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
