"""Objects as Amplitude answers them, in every shape that its pages show."""

from __future__ import annotations

import json
import pickle
from datetime import UTC, datetime

import pytest
from pydantic import ValidationError

from airflow_amplitude_experiment.api import models
from airflow_amplitude_experiment.api.models import Deployment, Experiment, Flag, Holdout, Mutex, Variant, Version

from .builders import a_flag
from .test_calls import REFERENCE_YAML

EXAMPLES = [
    (name, example)
    for name, schema in REFERENCE_YAML["components"]["schemas"].items()
    if name != "Id" and hasattr(models, name)
    for example in schema.get("examples", ())
]


@pytest.mark.parametrize(("name", "example"), EXAMPLES, ids=[name for name, _ in EXAMPLES])
def test_every_example_of_the_reference_is_read_and_written_back(name, example):
    assert _as_texts(getattr(models, name).model_validate(example).as_json()) == _as_texts(example)


def _as_texts(value):
    """Ids are held as texts; everything else comes back as it was."""
    return json.loads(json.dumps(value), parse_int=str)


@pytest.mark.parametrize(
    "name", ["Flag", "Experiment", "Version", "Variant", "Deployment", "Mutex", "Holdout", "MutexSlot"]
)
def test_every_field_of_the_reference_is_a_field_of_its_model(name):
    documented = REFERENCE_YAML["components"]["schemas"][name]["properties"]
    known = {field.alias or field_name for field_name, field in getattr(models, name).model_fields.items()}
    assert set(documented) - known == set()


@pytest.mark.parametrize("given", [70001, "70001"])
def test_a1_ids_are_texts_whether_sent_as_texts_or_numbers(given):
    flag = Flag.model_validate(a_flag(id=given, projectId=given, deployments=[given], createdBy=given))
    assert (flag.id, flag.project_id, flag.deployments, flag.created_by) == ("70001", "70001", ["70001"], "70001")


def test_a5_dependencies_and_members_can_be_compared():
    read = Experiment.model_validate(a_flag(parentDependencies={"flags": {"80002": ["slot-1"]}, "operator": "all"}))
    group = Mutex.model_validate({"id": 80002, "slots": [{"index": 1, "experiments": [70001], "individuals": [7]}]})
    assert group.id in read.parent_dependencies.flags
    assert group.slots[0].experiments == [read.id]
    assert group.slots[0].individuals == ["7"]
    assert Holdout.model_validate({"id": 1, "experiments": [70001]}).experiments == ["70001"]


def test_a8_a_slot_says_its_own_index():
    group = Mutex.model_validate({"id": 1, "slots": [{"index": 1.0}, {"index": 2}]})
    assert [slot.index for slot in group.slots] == [1, 2]


@pytest.mark.parametrize("payload", [{}, None])
def test_a11_no_payload_is_said_in_three_ways(payload):
    assert Variant.model_validate({"key": "on", "payload": payload}).value is None
    assert Variant.model_validate({"key": "on"}).value is None
    assert Variant.model_validate({"key": "on", "payload": 0}).value == 0


@pytest.mark.parametrize("author", ["x@example.com", 9001, None])
def test_a12_an_author_is_an_opaque_text(author):
    version = Version.model_validate({"version": 1, "flagConfig": {}, "createdBy": author})
    assert version.created_by == (str(author) if author is not None else None)


@pytest.mark.parametrize(("given", "read"), [(10, 10), (10.0, 10), (0, 0), (12.5, 12.5)])
def test_a10_numbers_are_whole_where_they_can_be(given, read):
    flag = Flag.model_validate(a_flag(rolloutPercentage=given, rolloutWeights={"on": given}))
    assert (flag.rollout_percentage, type(flag.rollout_percentage)) == (read, type(read))
    assert flag.rollout_weights == {"on": read}


@pytest.mark.parametrize("state", ["planning", "a state of next year", None])
@pytest.mark.parametrize("type_", ["hypothesis-testing", "no-harm", "multi-arm-bandit", "new"])
def test_e1_e2_states_and_types_are_open(state, type_):
    read = Experiment.model_validate(a_flag(state=state, experimentType=type_, enabled=True))
    assert (read.state, read.experiment_type, read.enabled) == (state, type_, True)


def test_e3_e28_all_but_id_and_key_may_be_missing_and_that_can_be_told_from_nothing():
    sparse, full = Flag.model_validate({"id": 1, "key": "k"}), Flag.model_validate(a_flag(tags=None, deleted=False))
    assert (sparse.tags, sparse.has("tags"), full.has("tags"), full.has("deleted")) == (None, False, True, True)
    assert sparse.as_json() == {"id": "1", "key": "k"}


def test_unknown_fields_are_kept_and_written_back():
    raw = a_flag(somethingNew={"a": [1]}, model_config={"b": 1}, targetSegments=[{"name": "s", "cohortIds": ["x"]}])
    assert Flag.model_validate(raw).as_json() == raw


@pytest.mark.parametrize(
    ("end", "moment"),
    [
        ("2026-07-31", datetime(2026, 8, 1, tzinfo=UTC)),
        ("2026-12-31", datetime(2027, 1, 1, tzinfo=UTC)),
        ("9999-12-31", datetime(9999, 12, 31, tzinfo=UTC)),
        ("2026-07-31T10:26:00.996Z", datetime(2026, 7, 31, 10, 26, 0, 996000, UTC)),
        ("2026-07-31T10:00:00+02:00", datetime(2026, 7, 31, 8, tzinfo=UTC)),
        ("2026-07-31T10:00:00", datetime(2026, 7, 31, 10, tzinfo=UTC)),
        (None, None),
        ("", None),
    ],
)
def test_e5_an_experiment_ends_at_a_moment_and_a_date_with_its_day(end, moment):
    assert Experiment.model_validate(a_flag(endDate=end)).ends_at == moment
    assert Experiment.model_validate(a_flag()).ends_at is None


@pytest.mark.parametrize("key", ["server-0123456789", "client-0123456789"])
def test_a_deployment_shows_its_key_only_to_who_asks_for_it(key):
    read = Deployment.model_validate({"id": 1, "key": key, "label": "web"})
    assert read.key == key
    for shown in (repr(read), str(read), f"{read}", repr([read]), f"{read!r:>200}"):
        assert key not in shown


def test_objects_can_be_pickled_compared_and_not_changed():
    flag = Flag.model_validate(a_flag(new=1))
    assert pickle.loads(pickle.dumps(flag)) == flag
    with pytest.raises(ValidationError):
        flag.enabled = True


def test_the_reference_holds_an_example_of_each_kind():
    assert {name for name, _ in EXAMPLES} >= {
        "Flag",
        "Experiment",
        "Version",
        "Variant",
        "Deployment",
        "Mutex",
        "Holdout",
    }
