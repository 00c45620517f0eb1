"""What the platform team allows a connection to change.

The rules are read from the connection's extra and travel with the client that the hook returns. Everything here
decides and sends nothing; what has to be read first is asked for by yielding a call (see :mod:`.guard`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

from airflow_amplitude_experiment.api import RolloutRefused
from airflow_amplitude_experiment.api._checks import boolean, one_of, percent


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules of one connection. ``None`` and empty mean: not restricted."""

    mode: Literal["write", "read_only"] = "write"
    allow_keys: tuple[str, ...] = ()
    deny_keys: tuple[str, ...] = ()
    max_percentage: int | None = None
    max_step: int | None = None
    require_reason: bool = False
    project_id: str | None = None
    environment: str | None = None
    organization: str | None = None

    @classmethod
    def from_extra(cls, extra: Mapping[str, Any]) -> Rules:
        """Read the rules from a connection's extra.

        :raises ValueError: a value that can't be meant; a rule that is misread would protect nobody.
        """
        given = {name: extra[name] for name in cls.__slots__ if extra.get(name) not in (None, "")}
        for name in ("allow_keys", "deny_keys"):
            if name in given:
                given[name] = _globs(name, given[name])
        for name in ("max_percentage", "max_step"):
            if name in given:
                given[name] = percent(f"connection extra {name}", given[name])
        if "mode" in given:
            given["mode"] = one_of("write", "read_only")("connection extra mode", given["mode"])
        if "require_reason" in given:
            given["require_reason"] = boolean("connection extra require_reason", given["require_reason"])
        for name in ("project_id", "environment", "organization"):
            if name in given:
                given[name] = str(given[name]).strip()
        return cls(**given)

    @property
    def name_keys(self) -> bool:
        """Whether an object's key matters."""
        return bool(self.allow_keys or self.deny_keys)

    @property
    def limit_percentages(self) -> bool:
        """Whether percentages matter."""
        return self.max_percentage is not None or self.max_step is not None

    @property
    def need_the_object(self) -> bool:
        """Whether an object has to be read before it can be changed."""
        return self.name_keys or self.limit_percentages or self.project_id is not None

    def check_reason(self, reason: str | None, what: str) -> None:
        """Refuse a change without a reason where one is required."""
        if self.require_reason and not (reason or "").strip():
            raise RolloutRefused(
                f"{what}: refused by the connection's rule require_reason. Nothing was sent. "
                "Give a reason (reason=… on the operator, or in the trigger form)."
            )

    def check_key(self, key: str | None, what: str) -> None:
        """Refuse an object whose key isn't allowed, or is denied."""
        if not self.name_keys:
            return
        denied = [glob for glob in self.deny_keys if key is None or fnmatchcase(key, glob)]
        if denied:
            raise _refusal(what, "deny_keys", f"{key!r} matches {denied[0]!r}")
        if self.allow_keys and not any(key is not None and fnmatchcase(key, glob) for glob in self.allow_keys):
            raise _refusal(what, "allow_keys", f"{key!r} matches none of {', '.join(map(repr, self.allow_keys))}")

    def check_project(self, project_id: str | None, what: str) -> None:
        """Refuse an object of another project than the connection names."""
        if self.project_id is not None and project_id != self.project_id:
            raise RolloutRefused(
                f"{what}: belongs to project {project_id}, but the connection names project {self.project_id}. "
                "Nothing was sent. Use the connection of that project, or correct the id."
            )

    def check_percentages(self, found: Any, arguments: Mapping[str, Any], what: str) -> None:
        """Refuse a raise that is too high, or too large a step. Going down is always allowed."""
        if not self.limit_percentages:
            return
        for scope, before, after in exposures(found, arguments):
            if before is None or after is None:
                raise _refusal(what, "max_step", f"Amplitude does not show where {scope} stands now")
            if after <= before:
                continue
            if self.max_percentage is not None and after > self.max_percentage:
                raise _refusal(
                    what, "max_percentage", f"{scope} would rise to {after} %, above {self.max_percentage} %"
                )
            if self.max_step is not None and after - before > self.max_step:
                raise _refusal(
                    what,
                    "max_step",
                    f"{scope} would rise from {before} % to {after} %, more than {self.max_step} points",
                )


def exposures(found: Any, arguments: Mapping[str, Any]) -> Iterator[tuple[str, float | None, float | None]]:
    """Yield (scope, percentage before, percentage after) for whatever a create or update may raise.

    A disabled or archived object reaches nobody, so enabling it is a rise from 0; a percentage that is set
    while it is disabled counts at once, because somebody may enable it in the app.
    """
    lives = bool(found) and bool(found.enabled) and not found.deleted
    touched = arguments.keys() & {"rollout_percentage", "enabled", "archive"}
    will_live = arguments.get("enabled", bool(found) and bool(found.enabled)) and not arguments.get(
        "archive", bool(found) and bool(found.deleted)
    )
    stands = found.rollout_percentage if found else 0
    if touched:
        after = arguments.get("rollout_percentage", stands)
        counts = will_live or "rollout_percentage" in arguments
        yield "the rollout", stands if lives else 0, after if counts else 0
    standing = {segment.name: segment for segment in (found.target_segments if found else None) or ()}
    for segment in arguments.get("target_segments") or ():
        before = standing[segment["name"]].percentage if lives and segment["name"] in standing else 0
        yield f"segment {segment['name']!r}", before, segment["percentage"]
    if will_live and not lives and "target_segments" not in arguments:
        for segment in standing.values():
            if not segment.conditions:
                yield f"segment {segment.name!r}, which catches everyone,", 0, segment.percentage


def _globs(name: str, value: Any) -> tuple[str, ...]:
    """Read globs given as a list, as JSON, or separated by commas or line breaks."""
    if isinstance(value, str) and value.strip().startswith("["):
        value = json.loads(value)
    if isinstance(value, str):
        value = value.replace("\n", ",").split(",")
    if not isinstance(value, Iterable) or not all(isinstance(glob, str) for glob in value):
        raise ValueError(f"connection extra {name} must be globs, separated by commas or as a JSON list")
    return tuple(glob.strip() for glob in value if glob.strip())


def _refusal(what: str, rule: str, why: str) -> RolloutRefused:
    return RolloutRefused(
        f"{what}: refused by the connection's rule {rule}: {why}. Nothing was sent. "
        "The platform team sets these rules in the extra of the Airflow connection."
    )


def number(name: str, value: Any, default: float) -> float:
    """Read a number from a connection's extra, where the form may leave it empty."""
    if value in (None, ""):
        return default
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ValueError(f"connection extra {name} is {value!r}, but must be a number") from None
