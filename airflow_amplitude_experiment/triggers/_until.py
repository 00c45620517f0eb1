"""What it means that a flag or experiment is as it is wanted.

Pure, and shared by the sensor's first look and the trigger's later ones. It is checked while a DAG is parsed, so it
loads no model there.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from airflow_amplitude_experiment.api._checks import camel
from airflow_amplitude_experiment.api.errors import RolloutRefused

from ._verdict import Verdict

OTHER_NAMES = {"percentage": "rollout_percentage", "archived": "deleted"}
ONLY_EXPERIMENTS = ("state", "decision", "decision_reason", "rolled_out_variant", "start_date", "end_date")
MADE = "made"
COMPARISON = re.compile(r"\s*(>=|<=|==|!=|>|<)\s*(-?\d+(?:\.\d+)?)\s*")
COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
}


class Until:
    """What is waited for, checked. All of it must hold at once.

    :param until: values by field, in snake_case or as the API writes it; see the sensor.
    :param kind: ``flag`` or ``experiment``.
    :raises ValueError: it can't be meant.
    """

    def __init__(self, until: Mapping[str, Any], kind: str) -> None:
        if not isinstance(until, Mapping) or not until:
            raise ValueError(f"until is {until!r}, but must name at least one field, such as {{'state': 'running'}}")
        self.kind = kind
        self.wanted = {_field(name): _checked(name, value, kind) for name, value in until.items()}
        if len(self.wanted) < len(until):
            raise ValueError(f"until names a field more than once, by different names: {', '.join(until)}")
        self.archived_too = "deleted" in self.wanted

    @property
    def needs(self) -> frozenset[str]:
        """The fields that are compared, as an answer names those that it holds."""
        from airflow_amplitude_experiment.api.models import Experiment

        return frozenset(name if name in Experiment.model_fields else camel(name) for name in self.wanted)

    def __str__(self) -> str:
        return ", ".join(f"{name} is {_in_words(name, value)}" for name, value in self.wanted.items())

    def judge(self, found: Any, moment: datetime) -> Verdict:
        """Say whether the object is as wanted; nothing but a change in Amplitude makes it so.

        :raises RolloutRefused: it is archived, or Amplitude shows no such field.
        """
        what = f"{self.kind.capitalize()} {found.key} ({found.id})"
        if found.deleted and not self.archived_too:
            raise RolloutRefused(f"{what} is archived, so it is not waited for. Restore it, or drop this task.")
        seen = {name: _value(found, name, what) for name in self.wanted}
        if not all(holds(seen[name], value, name) for name, value in self.wanted.items()):
            return Verdict()
        record = {"kind": self.kind, "key": found.key, "id": found.id, "found": seen}
        return Verdict({**record, "looked_at": moment.isoformat(timespec="seconds")})


def holds(found: Any, wanted: Any, name: str = "") -> bool:
    """Whether a field's value is the wanted one. A list means one of its values; a list that is found must hold it.

    A template renders to text, so ``"50"``, ``"true"`` and ``"None"`` are compared as what they say.
    """
    if isinstance(wanted, list | tuple):
        return any(holds(found, each, name) for each in wanted)
    if isinstance(found, list):
        return any(holds(each, wanted) for each in found)
    if isinstance(wanted, str) and (compared := COMPARISON.fullmatch(wanted)):
        sign, number = compared.groups()
        return _number(found) is not None and COMPARE[sign](_number(found), float(number))
    if name == "decision" and wanted == MADE:
        return found is not None
    if name == "rollout_percentage" and (percentage := _number(wanted)) is not None:
        return _number(found) is not None and found >= percentage
    return bool(_plain(wanted, found) == found)


def _plain(wanted: Any, found: Any) -> Any:
    """Return what a rendered text says, where the field holds something else than text."""
    if not isinstance(wanted, str) or isinstance(found, str):
        return wanted
    said = {"true": True, "false": False, "none": None, "null": None, "": None}
    text = wanted.strip().lower()
    if text in said:
        return said[text]
    return wanted if (number := _number(wanted)) is None else number


def _number(value: Any) -> float | None:
    """Return a number, also one that a template rendered; ``None`` for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except ValueError:
        return None


def _value(found: Any, name: str, what: str) -> Any:
    """Return a field as plain JSON; a documented one that the answer leaves out is not set."""
    if name in type(found).model_fields:
        value = getattr(found, name)
        if name == "deleted":
            return bool(value)  # lists don't show it, and hold what is not archived
        if value is None or isinstance(value, str | int | float):
            return value
        return found.model_dump(mode="json", by_alias=True, include={name}).popitem()[1]
    if found.model_extra and camel(name) in found.model_extra:
        return found.model_extra[camel(name)]
    raise RolloutRefused(f"{what} has no field {name!r} in Amplitude's answer, so it is not waited for.")


def _field(name: Any) -> str:
    """Return a field's name in snake_case, as the models have it."""
    if not isinstance(name, str) or not name.strip():
        raise ValueError(f"until names the field {name!r}, but a field's name is a text")
    plain = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.strip()).lower()
    return OTHER_NAMES.get(plain, plain)


def _checked(name: str, value: Any, kind: str) -> Any:
    field = _field(name)
    if kind == "flag" and field in ONLY_EXPERIMENTS:
        raise ValueError(f"until names {name}, which flags don't have; name an experiment, or wait for enabled")
    if isinstance(value, list | tuple):
        if not value:
            raise ValueError(f"until names no value that {name} may have, so it would wait for ever")
        return [_checked(name, each, kind) for each in value]
    if value is not None and not isinstance(value, str | int | float):
        raise ValueError(
            f"until wants {name} to be {value!r}, but it must be text, a number, true, false, None or a list"
        )
    if field == "rollout_percentage" and not (isinstance(value, str) and COMPARISON.fullmatch(value)):
        percentage = _number(value)
        if percentage is None or not 0 < percentage <= 100:
            raise ValueError(
                f"until wants a {name} of {value!r}, but a percentage that is to be reached is 1 to 100; "
                "for another comparison write it out, such as '== 0' or '<= 10'"
            )
    return value


def _in_words(name: str, value: Any) -> str:
    if isinstance(value, list | tuple):
        return " or ".join(_in_words(name, each) for each in value)
    if name == "rollout_percentage" and not COMPARISON.fullmatch(str(value)):
        return f"{value} or more"
    return str(value)
