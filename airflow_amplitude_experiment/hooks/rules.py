"""What the platform team allows a connection to change.

The rules are read from the connection's extra and travel with the client that the hook returns. Everything here
decides and sends nothing; what has to be read first is the guard's to read (see :mod:`.guard`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

from airflow_amplitude_experiment.api import RolloutRefused

from .audience import Rise
from .extra import RULES, given_in, refuse_misspelt


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
        refuse_misspelt(extra)
        return cls(**{name: read(name, extra[name]) for name, read in RULES.items() if given_in(extra, name)})

    @property
    def name_keys(self) -> bool:
        """Whether an object's key matters."""
        return bool(self.allow_keys or self.deny_keys)

    @property
    def limit_percentages(self) -> bool:
        """Whether percentages matter."""
        return self.max_percentage is not None or self.max_step is not None

    def check_reason(self, reason: str | None, what: str) -> None:
        """Refuse a change without a reason where one is required."""
        if self.require_reason and not (reason or "").strip():
            raise RolloutRefused(
                f"{what}: refused by the connection's rule require_reason. Nothing was sent. "
                "Give a reason (reason=… on the operator, or in the trigger form)."
            )

    def check_key(self, key: str | None, what: str) -> None:
        """Refuse an object whose key isn't allowed, or is denied; one without a key could be any."""
        name = "an object without a key" if key is None else repr(key)
        for glob in self.deny_keys:
            if key is None or fnmatchcase(key, glob):
                raise _refusal(what, "deny_keys", f"{name} matches {glob!r}")
        if self.allow_keys and not any(key is not None and fnmatchcase(key, glob) for glob in self.allow_keys):
            raise _refusal(what, "allow_keys", f"{name} matches none of {', '.join(map(repr, self.allow_keys))}")

    def check_project(self, project_id: str | None, what: str) -> None:
        """Refuse an object of another project than the connection names."""
        if self.project_id is not None and project_id != self.project_id:
            raise RolloutRefused(
                f"{what}: belongs to project {project_id}, but the connection names project {self.project_id}. "
                "Nothing was sent. Use the connection of that project, or correct the id."
            )

    def check_rises(self, rises: Iterable[Rise], what: str) -> None:
        """Refuse a raise that is too high, or too large a step. Going down is always allowed.

        People who are included one by one (``add_users``) are no share of all users, and not limited by this; a cohort
        counts as everybody.
        """
        for rise in rises:
            if self.max_percentage is not None and rise.after > self.max_percentage:
                raise _refusal(what, "max_percentage", f"{rise}, above {self.max_percentage} %")
            if self.max_step is not None and rise.after - rise.before > self.max_step:
                raise _refusal(what, "max_step", f"{rise}, more than {self.max_step} points")


def _refusal(what: str, rule: str, why: str) -> RolloutRefused:
    return RolloutRefused(
        f"{what}: refused by the connection's rule {rule}: {why}. Nothing was sent. "
        "The platform team sets these rules in the extra of the Airflow connection."
    )
