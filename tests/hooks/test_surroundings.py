"""What is read around an object before a rollout, and what it costs."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_amplitude_experiment.emulator import Emulator
from airflow_amplitude_experiment.hooks.lookup import Kind, by_key
from airflow_amplitude_experiment.hooks.surroundings import Surroundings, surroundings

from .conftest import Connect


@pytest.fixture
def look(emulator: Emulator, connect: Connect) -> Any:
    """Return what stands around an object; only the reads for that are counted."""

    def at(key: str, kind: Kind = "flag", **extra: Any) -> Surroundings:
        with connect(**extra).get_conn() as client:
            found = client.read(by_key(kind, key, None))
            emulator.clear_requests()
            return client.read(surroundings(kind, found, dialect=client.dialect))

    return at


@pytest.fixture
def asked(emulator: Emulator) -> Any:
    return lambda: [each["path"].split("/", 3)[3] for each in emulator.requests()]


def test_a_plain_flag_costs_two_requests_and_two_for_each_variant(emulator, look, asked):
    flag = emulator.add_flag("plain")
    look("plain")
    assert asked() == [
        f"flags/{flag['id']}/{path}" for path in ("variants", "deployments", "variants/on/users", "variants/on/cohorts")
    ]


def test_variants_come_with_payloads_and_inclusions_are_counted(emulator, look):
    variants = [{"key": "on", "payload": {"a": 1}, "users": ["u1", "u2"], "cohorts": ["c1"]}, {"key": "b"}]
    emulator.add_flag("plain", variants=variants)
    found = look("plain")
    assert {each.key: each.value for each in found.variants} == {"on": {"a": 1}, "b": None}
    assert found.users == {"on": 2, "b": 0}
    assert found.cohorts == {"on": 1, "b": 0}


def test_who_is_included_is_not_kept(emulator, look):
    emulator.add_flag("plain", variants=[{"key": "on", "users": ["secret-person"]}])
    assert "secret-person" not in repr(look("plain"))


def test_an_object_that_names_no_deployment_is_not_asked_for_them(emulator, look, asked):
    emulator.add_flag("alone", deployments=[])
    assert look("alone").deployments == ()
    assert not any(each.endswith("deployments") for each in asked())


def test_archived_deployments_can_be_told(emulator, look):
    emulator.seed({"deployments": [{"id": "77", "projectId": emulator.project_id, "label": "old", "deleted": True}]})
    emulator.add_flag("old", deployments=["77"])
    assert [each.deleted for each in look("old").deployments] == [True]


def test_a_mutex_group_costs_one_list_and_a_holdout_one_more(emulator, look, asked):
    emulator.add_experiment("gated")
    emulator.add_mutex("m", name="M", slots=[{"percentage": 50, "experiments": ["gated"]}, {"percentage": 50}])
    found = look("gated", "experiment")
    assert [each.key for each in found.mutexes] == ["m"]
    assert asked()[-1] == "mutexes"
    emulator.add_holdout("h", name="H", holdout_percentage=5, experiments=["gated"])
    assert [each.key for each in look("gated", "experiment").holdouts] == ["h"]
    assert asked()[-2:] == ["mutexes", "holdouts"]


def test_groups_of_other_projects_are_left_out(emulator, look):
    emulator.seed(
        {"projects": [{"id": "200002"}], "keys": [{"key": "both", "projects": [emulator.project_id, "200002"]}]}
    )
    emulator.add_experiment("gated")
    emulator.add_mutex("m", name="M", slots=[{"percentage": 100, "experiments": ["gated"]}])
    emulator.add_mutex("other", projectId="200002", name="O", slots=[{"percentage": 100}])
    assert [each.key for each in look("gated", "experiment").mutexes] == ["m"]


def test_the_older_api_is_asked_only_what_it_knows(emulator, look, asked):
    emulator.add_experiment("gated")
    emulator.add_mutex("m", name="M", slots=[{"percentage": 100, "experiments": ["gated"]}])
    found = look("gated", "experiment", dialect="beta")
    assert not found.groups_known
    assert found.cohorts == {}
    assert not any("cohorts" in each or "mutexes" in each or each.endswith("deployments") for each in asked())
