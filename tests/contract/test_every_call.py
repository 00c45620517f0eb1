"""Every call of both clients against the emulator, over the ways in which the published sources differ."""

from __future__ import annotations

import csv
import itertools
import random
import re
from pathlib import Path
from typing import Any

import pytest

from airflow_amplitude_experiment.api import (
    AmplitudeNotFound,
    deployments,
    experiments,
    flags,
    holdouts,
    mutexes,
    versions,
)
from airflow_amplitude_experiment.emulator import Emulator

from .drive import All, Scenario, run

ROWS = list(csv.DictReader((Path(__file__).parent.parent / "reference" / "endpoints.csv").open()))
WAYS: dict[str, list[Any]] = {
    "ids": ["string", "number"],
    "member_ids": ["number", "string"],
    "cursor": ["string", "integer", "opaque"],
    "next_cursor": ["top", "in_array"],
    "end_of_list": ["absent", "null", "empty"],
    "fields": ["sparse", "full"],
    "empty_payload": ["object", "null", "missing"],
    "dates": ["date", "as_sent"],
    "version_author": ["id", "email"],
    "patch_body": ["text", "json", "empty"],
    "error_body": ["text", "json"],
    "key_filter": ["exact", "partial"],
    "noop_versions": [False, True],
}
KEY = "a/b?c d 🎉"
SEGMENT = {
    "name": "Beta testers",
    "conditions": [{"type": "property", "prop": "gp:beta", "op": "is", "values": ["true"]}],
    "percentage": 100,
    "rolloutWeights": {"control": 1, "treatment": 1},
}
FILTER = {"subprop_key": "gp:plan", "subprop_op": "is", "subprop_type": "user", "subprop_value": ["pro"]}


def combinations() -> list[dict[str, Any]]:
    """The defaults, all second ways, and enough mixtures that every pair of ways meets at least once."""
    found = [{}, {name: ways[-1] for name, ways in WAYS.items()}]
    chance = random.Random(7)
    missing = {
        ((one, a), (other, b)) for one, other in itertools.combinations(WAYS, 2) for a in WAYS[one] for b in WAYS[other]
    }

    def meets(mixture: dict[str, Any]) -> set[Any]:
        full = {name: mixture.get(name, ways[0]) for name, ways in WAYS.items()}
        return {((one, full[one]), (other, full[other])) for one, other in itertools.combinations(WAYS, 2)}

    for mixture in found:
        missing -= meets(mixture)
    while missing:
        tries = [{name: chance.choice(ways) for name, ways in WAYS.items()} for _ in range(60)]
        best = max(tries, key=lambda mixture: len(meets(mixture) & missing))
        found.append(best)
        missing -= meets(best)
    return found


COMBINATIONS = combinations()


def life_of_an_object(calls: Any, dialect: str) -> Scenario:
    """Create, change, fill, empty and read one flag or experiment, and see each change."""
    v1, kind = dialect == "v1", repr(calls)
    fields: dict[str, Any] = {"name": "New nav", "description": "d", "deployments": ["31"], "bucketing_key": "user_id"}
    if kind == "experiments":
        fields["experiment_type"] = "a-b-test"
    made = yield calls.create(
        project_id=100001, key="new-nav", target_segments=[SEGMENT],
        variants=[{"key": "control"}, {"key": "treatment", "payload": {"a": [1]}}], **fields,
    )  # fmt: skip
    id_ = made.id
    read = yield calls.get(id_)
    assert (read.id, read.key, read.project_id, read.enabled) == (id_, "new-nav", "100001", False)
    assert (read.deployments, read.rollout_percentage) == (["31"], 0)
    assert read.target_segments[0].as_json()["conditions"] == SEGMENT["conditions"]

    yield calls.update(id_, rollout_percentage=25, name="Käse 🎉", bucketing_salt="s4lt")
    read = yield calls.get(id_)
    assert (read.rollout_percentage, read.name, read.bucketing_salt) == (25, "Käse 🎉", "s4lt")
    listed = yield All(calls.list(key="new-nav", project_id="100001"))
    assert [each.id for each in listed] == [id_]
    assert (yield All(calls.list(key="new"))) == []

    if kind == "experiments":
        yield from _fields_of_an_experiment(id_, v1)
    if v1:
        yield calls.update(id_, tags=["airflow", "ü"], target_segments=read.target_segments)
        yield calls.update(id_, archive=True)
        assert (yield All(calls.list(key="new-nav"))) == []
        assert [each.id for each in (yield All(calls.list(key="new-nav", include_archived=True)))] == [id_]
        yield calls.update(id_, archive=False)

    history = yield calls.versions(id_)
    assert [each.version for each in history] == list(range(len(history), 0, -1))
    first = yield calls.version(id_, 1)
    assert (first.version, first.flag_config.id, first.flag_config.key) == (1, id_, "new-nav")
    yield from _variants(calls, id_)
    yield from _people(calls, id_, v1)
    if v1:
        yield from _deployments_of(calls, id_)


def _fields_of_an_experiment(id_: str, v1: bool) -> Scenario:
    event = {"event_type": "viewed", "filters": [FILTER]}
    yield experiments.update(
        id_, sticky_bucketing=True, start_date="2026-02-01", end_date="2026-03-31T10:00:00+02:00",
        exposure_event=event, experiment_type="a-b-test",
    )  # fmt: skip
    read = yield experiments.get(id_)
    assert read.sticky_bucketing is True
    assert read.start_date[:10] == "2026-02-01"
    assert read.end_date[:10] == "2026-03-31"
    assert read.ends_at is not None
    yield experiments.update(id_, end_date=None, exposure_event=None)
    assert (yield experiments.get(id_)).end_date is None
    yield experiments.activate(id_)
    assert (yield experiments.get(id_)).enabled is True
    yield experiments.deactivate(id_)
    assert (yield experiments.get(id_)).enabled is False
    if v1:
        yield experiments.update(id_, decision="rollback", decision_reason="no", rolled_out_variant="control")
        read = yield experiments.get(id_)
        assert (read.decision, read.decision_reason, read.rolled_out_variant) == ("rollback", "no", "control")
    else:
        yield experiments.set_rollout_weights(id_, rollout_weights={"control": 3, "treatment": 1})
        weights = {each.key: each.rollout_weight for each in (yield experiments.variants(id_))}
        assert weights == {"control": 3, "treatment": 1}


def _variants(calls: Any, id_: str) -> Scenario:
    yield calls.create_variant(id_, key=KEY, name="N", description="d", payload=["ü", {"x": None}], rollout_weight=2)
    variant = yield calls.variant(id_, KEY)
    assert (variant.key, variant.name, variant.value, variant.rollout_weight) == (KEY, "N", ["ü", {"x": None}], 2)
    yield calls.update_variant(id_, KEY, payload={"y": 1}, rollout_weight=0, name="M")
    found = {each.key: each for each in (yield calls.variants(id_))}
    assert set(found) == {"control", "treatment", KEY}
    assert (found[KEY].value, found[KEY].name, found["treatment"].value, found["control"].value) == (
        {"y": 1}, "M", {"a": [1]}, None,
    )  # fmt: skip


def _people(calls: Any, id_: str, v1: bool) -> Scenario:
    people = ["qa-1@example.com", "device 77", "ü/🎉", "a,b"]
    yield calls.add_users(id_, KEY, people)
    assert (yield calls.users(id_, KEY)) == people
    yield calls.remove_user_at(id_, KEY, 1)
    assert (yield calls.users(id_, KEY)) == [people[0], *people[2:]]
    if v1:
        yield calls.remove_users(id_, KEY, people[2:3])
        assert (yield calls.users(id_, KEY)) == [people[0], people[3]]
        yield calls.add_cohorts(id_, KEY, ["1a2bc3d", 44])
        assert (yield calls.cohorts(id_, KEY)) == ["1a2bc3d", "44"]
        yield calls.remove_cohorts(id_, KEY, ["44"])
        assert (yield calls.cohorts(id_, KEY)) == ["1a2bc3d"]
    yield calls.remove_all_users(id_, KEY)
    assert (yield calls.users(id_, KEY)) == []
    yield calls.delete_variant(id_, KEY)
    missing = None
    try:
        yield calls.variant(id_, KEY)
    except AmplitudeNotFound as error:
        missing = error
    assert missing is not None
    assert missing.path.endswith("/variants/a%2Fb%3Fc%20d%20%F0%9F%8E%89")


def _deployments_of(calls: Any, id_: str) -> Scenario:
    yield calls.add_deployments(id_, [32])
    assert sorted(each.id for each in (yield calls.deployments(id_))) == ["31", "32"]
    yield calls.remove_deployment(id_, "31")
    assert [each.id for each in (yield calls.deployments(id_))] == ["32"]


def life_of_the_others(dialect: str) -> Scenario:
    """Deployments, and on v1 the groups and the feed of versions."""
    shown = {each.id: each for each in (yield All(deployments.list()))}
    assert {"31", "32"} <= set(shown)
    assert shown["32"].label == "web"
    if dialect == "beta":
        return
    made = yield deployments.create(project_id=100001, label="ios_2", type="client")
    yield deployments.update(made.id, label="ios-3", archive=True)
    found = {each.id: each for each in (yield All(deployments.list(project_id="100001")))}
    assert (found[made.id].label, found[made.id].deleted) == ("ios-3", True)
    assert made.id not in {each.id for each in (yield deployments.list(include_archived=False))}
    yield from _groups()
    feed = yield All(versions.list(start="2020-01-01"))
    assert {each.flag_config.key for each in feed} >= {"member"}
    assert (yield All(versions.list(start="2020-01-01", end="2020-01-02"))) == []
    assert (yield All(versions.list(project_id="999"))) == []


def _groups() -> Scenario:
    member = (yield flags.create(project_id="100001", key="member", deployments=[31])).id
    slots = [{"percentage": 60, "individuals": ["qa-1"]}, {"percentage": 40}]
    mutex = (yield mutexes.create(project_id="100001", name="One of", key="one-of", slots=slots)).id
    read = yield mutexes.get(mutex)
    assert [slot.percentage for slot in read.slots] == [60, 40]
    assert read.slots[0].individuals == ["qa-1"]
    yield mutexes.update_slot(mutex, read.slots[1].index, individuals=["qa-2", 7])
    assert (yield mutexes.get(mutex)).slots[1].individuals == ["qa-2", "7"]
    yield mutexes.update(mutex, name="Other")
    assert [each.name for each in (yield All(mutexes.list(key="one-of")))] == ["Other"]
    yield mutexes.update(mutex, archive=True)

    trial = (yield experiments.create(project_id="100001", key="trial")).id
    holdout = (
        yield holdouts.create(
            project_id=100001, name="Held", key="held", holdout_percentage=5, experiments=[trial],
            individual_inclusion=["in"], individual_exclusion=["out"],
        )
    ).id  # fmt: skip
    read = yield holdouts.get(holdout)
    assert (read.holdout_percentage, read.experiments) == (5, [trial])
    assert (read.individual_inclusion, read.individual_exclusion) == (["in"], ["out"])
    assert holdout in (yield experiments.get(trial)).parent_dependencies.flags
    yield holdouts.update(holdout, name="Held 2", experiments=[])
    read = yield holdouts.get(holdout)
    assert (read.name, read.experiments) == ("Held 2", [])
    assert [each.id for each in (yield All(holdouts.list()))] == [holdout]
    yield holdouts.update(holdout, archive=True)
    assert member


def prepared(emulator: Emulator) -> Emulator:
    emulator.seed({"deployments": [{"id": "32", "label": "web", "type": "client"}]})
    return emulator


@pytest.mark.parametrize("calls", [flags, experiments], ids=repr)
@pytest.mark.parametrize("options", COMBINATIONS, ids=range(len(COMBINATIONS)))
@pytest.mark.parametrize("dialect", ["v1", "beta"])
def test_every_call_on_an_object_does_what_it_says(emulator, way, dialect, options, calls):
    prepared(emulator).options(**options)
    run(way, emulator, life_of_an_object(calls, dialect), dialect=dialect)


@pytest.mark.parametrize("options", COMBINATIONS, ids=range(len(COMBINATIONS)))
@pytest.mark.parametrize("dialect", ["v1", "beta"])
def test_every_other_call_does_what_it_says(emulator, way, dialect, options):
    prepared(emulator).options(**options)
    run(way, emulator, life_of_the_others(dialect), dialect=dialect)


def test_the_scenarios_send_every_row_of_the_reference(emulator, way):
    sent: set[tuple[str, str]] = set()
    for dialect in ("v1", "beta"):
        for scenario in (
            life_of_an_object(flags, dialect),
            life_of_an_object(experiments, dialect),
            life_of_the_others(dialect),
        ):
            emulator.reset()
            prepared(emulator).options(requests_per_second=None)
            run(way, emulator, scenario, dialect=dialect)
            sent.update((each["method"], each["path"]) for each in emulator.requests())
    for row in ROWS:
        pattern = re.compile(re.sub(r"{\w+}", "[^/]+", row["path"]))
        assert [path for method, path in sent if method == row["method"] and pattern.fullmatch(path)], row["path"]
