"""What schemathesis has to know beyond the reference: which objects there are, and rules no schema can state."""

from __future__ import annotations

import re
from typing import Any

import schemathesis

# The objects of the seed in test_reference.py. Without them nearly every generated path is a 404.
IDS = {
    "experiments": ("70001", "70004", "70005"),
    "flags": ("70002", "70003", "70006"),
    "mutexes": ("80002",),
    "holdouts": ("90003",),
    "deployments": ("31", "32"),
}
VARIANTS = ("control", "treatment", "on", *(f"variant-{number}" for number in range(20)))
OTHERS = {"variantKey": VARIANTS, "versionId": ("1",), "deploymentId": ("31", "32")}

# A body that fits its schema is refused for these reasons only.
KNOWN_REFUSALS = re.compile(
    r"already taken|already a variant with this key|two of them have the same key"  # keys are unique
    r"|should be non-empty"  # ... and not empty
    r"|must total 100"  # the x-constraint of mutexes
    r"|is not a 'moment'|is an ISO 8601 timestamp"  # "ISO 8601" stands in descriptions
    r"|not one that this server gave"  # cursors are opaque
    r"|belongs to another project|needs a local group|holds at most 2000"
)


@schemathesis.hook
def map_path_parameters(context: Any, path_parameters: dict[str, Any] | None) -> dict[str, Any] | None:
    """Put objects that exist into most paths; what breaks a pattern is left alone, so no case changes its meaning."""
    if not path_parameters:
        return path_parameters
    collection = context.operation.path.split("/")[1]
    choices = {**OTHERS, "id": IDS.get(collection, ())}
    if str(path_parameters.get("userIndex", "")).isdigit():
        choices["userIndex"] = ("0",)
    return {name: _existing(value, choices.get(name, ())) for name, value in path_parameters.items()}


def _existing(value: Any, choices: tuple[str, ...]) -> Any:
    # The generated text decides, so that the same seed makes the same requests.
    number = sum(str(value).encode("utf-8", "replace"))
    return choices[number % len(choices)] if choices and number % 5 else value


@schemathesis.hook
def filter_case(context: Any, case: Any) -> bool:
    """Leave out limits above 1000: the schema forbids them, its description says that the server caps them."""
    try:
        return int((case.query or {}).get("limit", 0)) <= 1000
    except (TypeError, ValueError):
        return True


@schemathesis.check
def refusals_are_known(context: Any, response: Any, case: Any) -> None:
    """Stand in for ``positive_data_acceptance``, which allows no 400 at all."""
    mode = case.meta.generation.mode if case.meta else None
    if response.status_code == 400 and mode is not None and mode.is_positive:
        assert KNOWN_REFUSALS.search(response.text), f"refused without a known reason: {response.text}"
