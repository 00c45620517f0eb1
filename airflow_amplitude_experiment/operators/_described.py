"""The arguments that describe a new flag or experiment: which call takes them, and what they may hold.

Checked twice with the same checks: while the DAG is parsed as far as they are known then, and whole once
templates are rendered. They are named here once more, and not taken from the API's calls, because those cost
milliseconds at each parse; a test compares the two.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from airflow_amplitude_experiment.api import _checks as check

from ._base import given, is_known

if TYPE_CHECKING:
    from airflow_amplitude_experiment.rollout.description import Wanted

POST_FIELDS = {
    "name": check.text,
    "description": check.text,
    "variants": check.variants,
    "bucketing_key": check.name,
    "rollout_weights": check.weights,
    "target_segments": check.segments,
    "deployments": check.identifiers,
    "evaluation_mode": check.evaluation_mode,
    "experiment_type": check.experiment_type,
}
PATCH_FIELDS = {
    "enabled": check.boolean,
    "rollout_percentage": check.percent,
    "tags": check.tags,
    "bucketing_salt": check.name,
    "bucketing_unit": check.name,
    "start_date": check.date_text,
    "end_date": check.date_or_none,
    "sticky_bucketing": check.boolean,
    "exposure_event": check.exposure_event,
}
STRUCTURED = frozenset({"variants", "rollout_weights", "target_segments", "deployments", "tags", "exposure_event"})
ARGUMENTS = {name: name for name in (*POST_FIELDS, *PATCH_FIELDS)} | {
    # A task's own start_date says when Airflow starts it, and stands in many a default_args.
    "start_date": "experiment_start_date",
    "end_date": "experiment_end_date",
}
"""The operators' argument for each field of the API."""

EXPERIMENTS_ONLY = (
    "experiment_type",
    "experiment_start_date",
    "experiment_end_date",
    "sticky_bucketing",
    "exposure_event",
)
FLAG_ARGUMENTS = tuple(argument for argument in ARGUMENTS.values() if argument not in EXPERIMENTS_ONLY)


def check_what_is_known(values: Mapping[str, Any]) -> None:
    """Check the values that no template fills in later.

    :param values: the operator's arguments by the names of the API's fields.
    :raises ValueError: a value that the API would not take.
    """
    known = {name: value for name, value in values.items() if given(value) is not None and is_known(value)}
    checked = {}
    for name, value in known.items():
        argument = ARGUMENTS[name]
        value = _read(argument, value) if name in STRUCTURED else value
        checked[name] = {**POST_FIELDS, **PATCH_FIELDS}[name](argument, value)
    check.refuse_local_amplitude_id(checked)


def described(
    kind: Literal["flag", "experiment"], key: Any, values: Mapping[str, Any]
) -> tuple[Wanted, dict[str, Any]]:
    """Return what a task describes, and the plain arguments of its create.

    :param values: the rendered arguments by the names of the API's fields.
    :raises ValueError: a value that the API would not take; nothing has been sent.
    """
    from airflow_amplitude_experiment.api import Call
    from airflow_amplitude_experiment.api._call import find_endpoint
    from airflow_amplitude_experiment.rollout.description import Wanted

    if given(key) is None:
        raise ValueError(f"The {kind} is named by an empty text; was it left out of the form or the conf?")
    key = check.name("key", key).strip()
    plain = {
        name: _read(ARGUMENTS[name], value) if name in STRUCTURED else value
        for name, value in values.items()
        if given(value) is not None
    }
    raw = {name: value for name, value in plain.items() if name in POST_FIELDS}
    create: Call[Any] = Call(f"{kind}s.create", {"project_id": "of the connection", "key": key, **raw})
    later: Call[Any] = Call(f"{kind}s.update", {"id": key, **{name: plain[name] for name in plain.keys() - raw.keys()}})
    post = find_endpoint(create.endpoint).checked(create.arguments)
    patch = find_endpoint(later.endpoint).checked(later.arguments)
    wanted = Wanted(
        kind=kind,
        key=key,
        post={name: post[name] for name in raw},
        patch={name: patch[name] for name in PATCH_FIELDS if name in patch},
    )
    return wanted, raw


def _read(argument: str, value: Any) -> Any:
    """Return a list or mapping, which a template renders as JSON (``{{ params.variants | tojson }}``)."""
    if not isinstance(value, str):
        return json.loads(json.dumps(value)) if is_known(value) else value
    try:
        return json.loads(value)
    except ValueError:
        raise ValueError(
            f"{argument} is the text {check.short(value)}, but must be a list or mapping; from a template it must be "
            "JSON: {{ … | tojson }}"
        ) from None
