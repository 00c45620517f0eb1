"""The right project (law 11), and finding an object by its key."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_amplitude_experiment.api import AmplitudeNotFound, RolloutRefused, flags, mutexes
from airflow_amplitude_experiment.hooks import AmplitudeExperimentHook
from airflow_amplitude_experiment.hooks.lookup import by_id

TWO = {
    "projects": [{"id": "200001", "name": "Shop"}, {"id": "200002", "name": "App"}],
    "keys": [{"key": "a-key-that-sees-both-projects", "projects": ["200001", "200002"]}],
    "flags": [
        {"key": "same", "projectId": "200001", "id": "1"},
        {"key": "same", "projectId": "200002", "id": "2"},
        {"key": "only", "projectId": "200002", "id": "3"},
    ],
    "mutexes": [{"key": "m", "name": "m", "projectId": "200002", "id": "4", "slots": [{"percentage": 100}]}],
}


@pytest.fixture
def both(emulator: Any, given: Any) -> Any:
    """Return a hook whose key sees two projects."""
    emulator.seed(TWO)

    def make(**extra: Any) -> AmplitudeExperimentHook:
        hook: AmplitudeExperimentHook = given(
            password="a-key-that-sees-both-projects",
            host=emulator.url,
            extra={"requests_per_second": 10_000, **extra},
        )
        return hook

    return make


def test_a_key_in_two_projects_is_refused_with_both_listed(both: Any) -> None:
    with pytest.raises(RolloutRefused, match="flag same is found in several projects: 200001, 200002"):
        both().find("flag", "same")


def test_the_connection_or_the_caller_names_the_one(both: Any) -> None:
    assert both(project_id="200002").find("flag", "same").id == "2"
    assert both(project_id=200002).find("flag", "same").id == "2"
    assert both().find("flag", "same", "200001").id == "1"
    assert both().find("flag", "only").id == "3"


@pytest.mark.parametrize(
    "call", [flags.update("3", name="n"), flags.update(3, name="n"), mutexes.update("4", name="n")]
)
def test_an_id_without_a_project_is_refused_where_the_key_sees_several(call: Any, both: Any, writes: Any) -> None:
    with pytest.raises(RolloutRefused, match=r"id [34] is given without a project.*: 200001, 200002"):
        both().send(call)
    assert writes() == []


def test_an_id_of_another_project_is_refused(both: Any, writes: Any) -> None:
    with pytest.raises(RolloutRefused, match="belongs to project 200002, but the connection names project 200001"):
        both(project_id="200001").send(flags.update("3", name="n"))
    both(project_id="200002").send(flags.update("3", name="n"))
    assert len(writes()) == 1


def test_a_create_in_another_project_is_refused(both: Any, writes: Any) -> None:
    for project in ("200001", 200001):
        with pytest.raises(RolloutRefused, match="belongs to project 200001"):
            both(project_id="200002").send(flags.create(project_id=project, key="new"))
        with pytest.raises(RolloutRefused, match="belongs to project 200001"):
            both(project_id="200002").send(mutexes.create(project_id=project, name="n", slots=[{"percentage": 100}]))
    assert writes() == []


def test_reading_by_id_compares_the_project(both: Any) -> None:
    with both().get_conn() as client:
        assert client.read(by_id("flag", "3", "200002")).key == "only"
        with pytest.raises(RolloutRefused, match="belongs to project 200002, not 200001"):
            client.read(by_id("flag", "3", "200001"))
        with pytest.raises(RolloutRefused, match="several projects: 200001, 200002"):
            client.read(by_id("flag", "3", None))


def test_a_missing_an_archived_and_a_mistaken_key_are_told_apart(connect: Any, emulator: Any) -> None:
    emulator.add_flag("old", deleted=True)
    emulator.add_experiment("test")
    hook = connect()
    with pytest.raises(RolloutRefused, match="flag old in project 100001 is archived"):
        hook.find("flag", "old")
    with pytest.raises(AmplitudeNotFound, match="there is no flag 'nothing' in project 100001, archived ones included"):
        hook.find("flag", "nothing")
    with pytest.raises(AmplitudeNotFound, match="name it by experiment_key"):
        hook.find("flag", "test")
    assert hook.find("experiment", "test").key == "test"


@pytest.mark.parametrize("key", ["a b", "a/b?c", "päyments", "🚀", "a&b=c"])
def test_a_key_with_odd_characters_is_found(key: str, connect: Any, emulator: Any) -> None:
    emulator.add_flag(key)
    assert connect().find("flag", key).key == key
