"""Any call as a task: taken apart, rendered, checked, sent, and plain in the XCom."""

from __future__ import annotations

import json

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, AirflowSkipException
from airflow.sdk import DAG, task

from airflow_amplitude_experiment.api import deployments, experiments, flags, mutexes
from airflow_amplitude_experiment.api._call import ENDPOINTS
from airflow_amplitude_experiment.operators import AmplitudeApiCallOperator
from tests.builders import a_context


@pytest.fixture
def amplitude(amplitude_emulator, monkeypatch):
    connection = amplitude_emulator.airflow_connection(requests_per_second=100)
    monkeypatch.setenv("AIRFLOW_CONN_AMPLITUDE_EXPERIMENT_DEFAULT", connection)
    amplitude_emulator.add_flag("new-checkout", enabled=True, rolloutPercentage=10)
    amplitude_emulator.clear_requests()
    return amplitude_emulator


def run(call=None, *, context=None, **options):
    return AmplitudeApiCallOperator(task_id="call", call=call, **options).execute(context or a_context())


def test_a_read_comes_back_as_plain_json(amplitude):
    flag_id = amplitude.flag("new-checkout")["id"]
    answer = run(flags.get(flag_id))
    assert answer["rolloutPercentage"] == 10
    assert json.loads(json.dumps(answer)) == answer


def test_a_list_follows_its_pages(amplitude):
    for number in range(5):
        amplitude.add_flag(f"flag-{number}")
    answer = run(flags.list(limit=2))
    assert len(answer) == 6
    assert [request["method"] for request in amplitude.requests()] == ["GET"] * 3


def test_a_deployments_key_is_cut(amplitude):
    (answer,) = run(deployments.list())
    assert answer["key"] == f"{amplitude.deployment_key[:9]}…"
    (answer,) = run(flags.deployments(amplitude.flag("new-checkout")["id"]))
    assert amplitude.deployment_key not in json.dumps(answer)


def test_a_key_in_the_answer_of_a_create_is_cut_too(monkeypatch, respx_mock):
    """What a create answers differs between the sources (D7)."""
    monkeypatch.setenv("AIRFLOW_CONN_AMPLITUDE_EXPERIMENT_DEFAULT", '{"conn_type": "x", "password": "some-key"}')
    new = {"id": "31", "label": "web", "key": "server-a-very-secret-key"}
    respx_mock.post("https://experiment.amplitude.com/api/1/deployments").respond(json=new)
    assert run(deployments.create(project_id="1", label="web", type="server"))["key"] == "server-a-v…"


def test_arguments_that_render_to_no_mapping_are_refused(amplitude):
    operator = AmplitudeApiCallOperator(task_id="call", endpoint="flags.get", arguments={"id": "1"})
    operator.arguments = "{'id': '1'}"
    with pytest.raises(AirflowFailException, match="must be a mapping"):
        operator.execute(a_context())


def test_a_write_answers_nothing_and_is_applied(amplitude):
    flag_id = amplitude.flag("new-checkout")["id"]
    assert run(flags.update(flag_id, name="New name"), unguarded="only the name") is None
    assert amplitude.flag("new-checkout")["name"] == "New name"


@pytest.mark.parametrize("endpoint", sorted(ENDPOINTS))
def test_whatever_reaches_people_needs_to_say_why(endpoint):
    described = ENDPOINTS[endpoint]
    lazy = dict.fromkeys(described.required, "{{ x }}")
    if described.reach == "people":
        with pytest.raises(ValueError, match="unguarded"):
            AmplitudeApiCallOperator(task_id="call", endpoint=endpoint, arguments=lazy)
    AmplitudeApiCallOperator(task_id="call", endpoint=endpoint, arguments=lazy, unguarded="a test")


def test_reading_and_creating_reach_nobody_and_everything_else_does():
    harmless = {name for name, described in ENDPOINTS.items() if described.reach == "nothing"}
    reads = {name for name, described in ENDPOINTS.items() if described.method == "GET"}
    assert harmless == reads | {"flags.create", "experiments.create", "deployments.create"}


def test_rendered_texts_become_what_the_api_takes(amplitude):
    flag_id = amplitude.flag("new-checkout")["id"]
    operator = AmplitudeApiCallOperator(
        task_id="call", call=flags.update("{{ params.id }}", rollout_percentage="{{ params.p }}"), unguarded="a test"
    )
    operator.arguments = {"id": flag_id, "rollout_percentage": "25"}
    operator.execute(a_context())
    (patch,) = [each for each in amplitude.requests() if each["method"] == "PATCH"]
    assert patch["body"] == {"rolloutPercentage": 25}


def test_what_is_rendered_is_checked_before_the_first_request(amplitude):
    operator = AmplitudeApiCallOperator(
        task_id="call", call=flags.update("1", rollout_percentage="{{ params.p }}"), unguarded="a test"
    )
    operator.arguments = {"id": "1", "rollout_percentage": "250"}
    with pytest.raises(AirflowFailException, match="rollout_percentage is '250'"):
        operator.execute(a_context())
    assert amplitude.requests() == []


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "either call"),
        ({"call": flags.get("1"), "endpoint": "flags.get"}, "either call"),
        ({"endpoint": "flags.got"}, "no endpoint"),
        ({"endpoint": "flags.get", "arguments": {"id": True}}, "id is True"),
        ({"call": mutexes.update("1", archive="perhaps"), "unguarded": "x"}, "archive is 'perhaps'"),
        ({"call": experiments.get("1"), "arguments": {"id": "2"}}, "either call"),
    ],
)
def test_mistakes_that_show_at_parse_time_are_named_then(options, says):
    with pytest.raises(ValueError, match=says):
        AmplitudeApiCallOperator(task_id="call", **options)


def test_an_argument_that_does_not_exist_is_named_at_parse_time():
    with pytest.raises(TypeError, match="no argument 'x'"):
        AmplitudeApiCallOperator(task_id="call", endpoint="flags.get", arguments={"id": "1", "x": 1})


def test_a_backfill_reads_but_does_not_write(amplitude):
    flag_id = amplitude.flag("new-checkout")["id"]
    past = a_context(run_type="backfill")
    assert run(flags.get(flag_id), context=past)["id"] == flag_id
    with pytest.raises(AirflowSkipException):
        run(flags.update(flag_id, name="x"), unguarded="a test", context=past)
    assert amplitude.flag("new-checkout")["name"] != "x"


def test_a_read_only_connection_sends_nothing(amplitude, monkeypatch):
    connection = amplitude.airflow_connection(mode="read_only")
    monkeypatch.setenv("AIRFLOW_CONN_AMPLITUDE_EXPERIMENT_DEFAULT", connection)
    answer = run(flags.update(amplitude.flag("new-checkout")["id"], name="x"), unguarded="a test")
    assert answer == {"endpoint": "flags.update", "written": False}


def test_results_of_other_tasks_make_a_dependency():
    with DAG(dag_id="depends") as dag:

        @task
        def find() -> str:
            return "21002"

        AmplitudeApiCallOperator(task_id="variants", call=flags.variants(find()))
        AmplitudeApiCallOperator.partial(task_id="each", endpoint="flags.get").expand(arguments=[{"id": "1"}])
    assert dag.get_task("variants").upstream_task_ids == {"find"}
