"""A call that changes something, as the rules look at it: in v1's words, with checked arguments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from airflow_amplitude_experiment.api import Call
from airflow_amplitude_experiment.api._call import Dialect, find_endpoint
from airflow_amplitude_experiment.api._checks import short

HIDDEN = frozenset({"payload", "exposure_event"})
"""Arguments that may hold what belongs in no log."""


@dataclass(frozen=True, slots=True)
class Write:
    """What one call changes.

    :param kind: namespace of the call, such as ``"flags"``.
    :param function: its name in there; the beta's activate and deactivate are an ``update``.
    :param arguments: as the API gets them.
    """

    call: Call[Any]
    kind: str
    function: str
    arguments: dict[str, Any]

    @classmethod
    def of(cls, call: Call[Any], *, dialect: Dialect) -> Write:
        """Look at a call.

        :raises ValueError: an argument that is wrong in itself.
        """
        endpoint = find_endpoint(call.endpoint)
        arguments = endpoint.prepare(call.arguments, dialect=dialect).values
        name, more = endpoint.on_v1 or (call.endpoint, {})
        kind, function = name.split(".")
        return cls(call, kind, function, {**arguments, **more})

    @property
    def creates(self) -> bool:
        """Whether there is no object yet."""
        return self.function == "create"

    @property
    def object_id(self) -> str:
        """Id of the object that is changed."""
        return str(self.arguments["id"])

    @property
    def is_on_toggle(self) -> bool:
        """Whether a flag or an experiment is changed, not a group or a deployment."""
        return self.kind in ("flags", "experiments")

    @property
    def ends_at_nothing(self) -> bool:
        """Whether it does no more than switch off, or set 0 %."""
        nothing = {"enabled": False, "rollout_percentage": 0}
        fields = {name: value for name, value in self.arguments.items() if name != "id"}
        return self.function == "update" and fields.items() <= nothing.items()

    def refuse_more_than_down(self) -> None:
        """Refuse what no kill and no rollback does.

        :raises ValueError: another field than the switch and percentages, or the switch on.
        """
        others = self.arguments.keys() - {"id", "enabled", "rollout_percentage", "target_segments"}
        if self.function != "update" or others or self.arguments.get("enabled"):
            raise ValueError(
                f"{self.in_words(None)}: way_down=True is for switching off and for lower percentages, and nothing else"
            )

    def project_of(self, found: Any) -> str | None:
        """Return the project of the object, or the one that it is created in."""
        project: str | None = str(self.arguments["project_id"]) if self.creates else found.project_id
        return project

    def keys(self, found: Any) -> list[str | None]:
        """Return what names the object, before the call and after it. For a deployment that is its label."""
        name = "label" if self.kind == "deployments" else "key"
        after = [self.arguments[name]] if name in self.arguments and (self.creates or name == "label") else []
        return (after or [None]) if self.creates else [name_of(found), *after]

    def in_words(self, found: Any) -> str:
        """Say what is to be done: ``flags.update checkout-new (id 21001)``."""
        if self.creates:
            name = self.arguments.get("key") or self.arguments.get("label") or self.arguments.get("name")
            return f"{self.call.endpoint} {name}"
        name = name_of(found)
        return (
            f"{self.call.endpoint} {name} (id {self.object_id})" if name else f"{self.call.endpoint} {self.object_id}"
        )

    def shown(self) -> str:
        """Return the call for the log: no list of people and no content."""
        given = (f"{name}={_shown(name, value)}" for name, value in self.call.arguments.items())
        return f"{self.call.endpoint}({', '.join(given)})"


def name_of(found: Any) -> str | None:
    """Return the key of an object, the label of a deployment: its key is secret."""
    name: str | None = found.label if hasattr(found, "label") else getattr(found, "key", None)
    return name


def _shown(name: str, value: Any) -> str:
    if isinstance(value, list):
        return f"<{len(value)}>"
    return "<…>" if name in HIDDEN else short(value)
