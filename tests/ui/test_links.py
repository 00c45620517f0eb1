"""The link "Open in Amplitude" on a task."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from airflow_amplitude_experiment.ui.links import URL_KEY, OpenInAmplitudeLink, object_url

FOUND = SimpleNamespace(id="21001", project_id="100001", key="a/b?c d 🚀")


@pytest.mark.parametrize(
    ("base_url", "organization", "address"),
    [
        ("https://experiment.amplitude.com", "acme", "https://app.amplitude.com/experiment/acme/100001/config/21001"),
        ("https://experiment.amplitude.com", None, "https://app.amplitude.com/experiment"),
        (
            "https://experiment.eu.amplitude.com",
            "acme",
            "https://app.eu.amplitude.com/experiment/acme/100001/config/21001",
        ),
        (
            "https://management-api.experiment.eu.amplitude.com",
            "acme",
            "https://app.eu.amplitude.com/experiment/acme/100001/config/21001",
        ),
        ("http://127.0.0.1:8765", None, "http://127.0.0.1:8765/experiment/-/100001/config/21001"),
        ("http://127.0.0.1:8765", "acme", "http://127.0.0.1:8765/experiment/acme/100001/config/21001"),
        (
            "https://experiment.amplitude.com",
            "a/../b?c#d",
            "https://app.amplitude.com/experiment/a%2F..%2Fb%3Fc%23d/100001/config/21001",
        ),
    ],
)
def test_the_address_of_an_object(base_url: str, organization: str | None, address: str) -> None:
    assert object_url(base_url, organization, FOUND) == address


def test_the_key_of_an_object_is_in_no_address() -> None:
    assert "🚀" not in object_url("https://experiment.amplitude.com", "acme", FOUND)


def test_every_host_of_amplitude_has_its_app() -> None:
    from airflow_amplitude_experiment.api._client import HOSTS
    from airflow_amplitude_experiment.ui.links import APPS

    assert set(APPS) == set(HOSTS.values())
    assert all(("eu" in app) == ("eu." in host) for host, app in APPS.items())


def test_the_emulator_answers_at_the_address(amplitude_emulator: Any) -> None:
    import httpx

    flag = amplitude_emulator.add_flag("new-nav")
    found = SimpleNamespace(id=flag["id"], project_id=flag["projectId"])
    page = httpx.get(object_url(amplitude_emulator.url, None, found), trust_env=False)
    assert page.status_code == 200
    assert "new-nav" in page.text


@pytest.mark.parametrize("left", ["https://app.amplitude.com/experiment", None])
def test_the_link_is_what_the_task_left_or_nothing(left: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that failed before it knew the object left nothing; Airflow shows no link then."""
    from airflow_amplitude_experiment.ui import links

    asked: list[Any] = []

    def get_value(*, key: str, ti_key: Any) -> str | None:
        asked.append((key, ti_key))
        return left

    monkeypatch.setattr(links, "XCom", SimpleNamespace(get_value=get_value))
    ti_key = object()
    assert OpenInAmplitudeLink().get_link(SimpleNamespace(), ti_key=ti_key) == (left or "")
    assert asked == [(URL_KEY, ti_key)]


def test_the_link_survives_serialization_as_airflow_stores_it() -> None:
    from airflow.sdk import DAG
    from airflow.serialization import serialized_objects

    from airflow_amplitude_experiment.operators import AmplitudeRampRolloutOperator

    serialization = getattr(serialized_objects, "DagSerialization", serialized_objects.SerializedDAG)  # 3.2 and later
    with DAG("a") as dag:
        AmplitudeRampRolloutOperator(task_id="ramp", flag_key="f", percentage=10)
    stored = serialization.to_dict(dag)
    assert "_link_open_in_amplitude" in str(stored)
    task = serialization.from_dict(stored).task_dict["ramp"]
    assert [each.name for each in task.operator_extra_links] == ["Open in Amplitude"]
