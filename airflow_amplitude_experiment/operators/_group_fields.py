"""What the arguments of the operators on groups may hold.

Checked while the DAG is parsed as far as they are known then, and again once templates are rendered. They are not those
of the API's calls, because here members may be named by key.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow_amplitude_experiment.api import _checks as check

MEMBERS = ("experiments", "holdouts")
MODE = check.one_of("add", "remove", "replace")
NAMES = check.list_of(check.Check("a key or a numeric id", check.identifier.convert))


def described_slots(name: str, value: Any) -> list[dict[str, Any]]:
    """Check the slots of a new mutex group, whose members may be named by key.

    :raises ValueError: what can't be, and what is allowed; no user id is repeated.
    """
    if not isinstance(value, list) or not all(isinstance(each, Mapping) for each in value):
        return check.slots(name, value)  # type: ignore[no-any-return]  # it raises
    alone = [{field: content for field, content in each.items() if field not in MEMBERS} for each in value]
    slots = []
    for index, (slot, each) in enumerate(zip(check.slots(name, alone), value, strict=True), 1):
        members = {side: NAMES(f"slot {index}, {side}", each[side]) for side in MEMBERS if side in each}
        slots.append({**slot, **members})
    return slots


FIELDS: dict[str, Any] = {
    "name": check.name,
    "description": check.text,
    "evaluation_mode": check.evaluation_mode,
    "bucketing_key": check.name,
    "bucketing_salt": check.name,
    "holdout_percentage": check.holdout_percentage,
    "slots": described_slots,
    "experiments": NAMES,
    "holdouts": NAMES,
    "individuals": check.people_listed,
    "individual_inclusion": check.people_listed,
    "individual_exclusion": check.people_listed,
    "slot": check.Check("the index of a slot, a whole number", check.whole),
    "mode": MODE,
    "while_running": check.boolean,
}
LISTS = frozenset({"slots", "experiments", "holdouts", "individuals", "individual_inclusion", "individual_exclusion"})
