"""The arguments that describe a new flag or experiment: which call takes them, and what they may hold.

Checked twice with the same checks: while the DAG is parsed as far as they are known then, and whole once
templates are rendered. They are named here once more, and not taken from the API's calls, because those cost
milliseconds at each parse; a test compares the two.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import date, datetime
from typing import TYPE_CHECKING, Any, Literal

from airflow_amplitude_experiment.api import _checks as check

from ._base import given, is_known

if TYPE_CHECKING:
    from airflow_amplitude_experiment.api._checks import Check
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
DESCRIBING = {**POST_FIELDS, **PATCH_FIELDS}
STRUCTURED = frozenset(
    {
        "variants",
        "rollout_weights",
        "weights",
        "target_segments",
        "segment_changes",
        "deployments",
        "tags",
        "add_tags",
        "remove_tags",
        "exposure_event",
        "clear",
    }
)
ARGUMENTS = {name: name for name in DESCRIBING} | {
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


def check_what_is_known(values: Mapping[str, Any], fields: Mapping[str, Check] = DESCRIBING) -> dict[str, Any]:
    """Check the values that no template fills in later, and return them as they are sent.

    :param values: the operator's arguments by the names of the API's fields.
    :param fields: what each may hold.
    :raises ValueError: a value that the API would not take.
    """
    return checked({name: value for name, value in values.items() if is_known(value)}, fields)


def checked(values: Mapping[str, Any], fields: Mapping[str, Check]) -> dict[str, Any]:
    """Return the values that are given, as they are sent.

    :raises ValueError: a value that the API would not take.
    """
    read = {}
    for name, value in values.items():
        if given(value) is not None:
            argument = ARGUMENTS.get(name, name)
            read[name] = fields[name](argument, structured(argument, value) if name in STRUCTURED else value)
    return check.refuse_local_amplitude_id(read)


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
        name: structured(ARGUMENTS[name], value) if name in STRUCTURED else value
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


def refuse_dates_of_the_task(arguments: Mapping[str, Any]) -> None:
    """Refuse an experiment's dates under the names of a task's own, which say when Airflow starts it.

    :raises ValueError: with the name to use.
    """
    for own_date in ("start_date", "end_date"):
        if isinstance(arguments.get(own_date), str):
            raise ValueError(f"{own_date} is the task's own in Airflow; the experiment's is experiment_{own_date}")


def as_text(name: str, moment: str | date | None) -> str | None:
    """Return a date as text: Airflow keeps template fields as plain values.

    :raises ValueError: a moment without a time zone.
    """
    if isinstance(moment, datetime) and moment.tzinfo is None:
        raise ValueError(f"{name} is {moment.isoformat()}, a moment without a time zone; give an aware datetime")
    return moment.isoformat() if isinstance(moment, date) else moment


def structured(argument: str, value: Any) -> Any:
    """Return a list or mapping, which a template renders as JSON (``{{ params.variants | tojson }}``).

    :raises ValueError: a text that is no JSON; it is not repeated, as it may hold ids of users or a deployment's key.
    """
    if not isinstance(value, str):
        return json.loads(json.dumps(value)) if is_known(value) else value
    try:
        return json.loads(value)
    except ValueError:
        raise ValueError(
            f"{argument} is a text, but must be a list or mapping; from a template it must be JSON: "
            "{{ … | tojson }}"
        ) from None
