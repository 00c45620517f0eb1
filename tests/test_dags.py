"""What a DAG made of our operators looks like to Airflow."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.dags import loaded

EXAMPLES = sorted((Path(__file__).parent.parent / "example_dags").glob("*.py"))

EVERYTHING = """
from datetime import datetime
from airflow.sdk import DAG, task
from airflow_amplitude_experiment.api import flags
from airflow_amplitude_experiment.operators import (
    AmplitudeApiCallOperator, AmplitudeArchiveOperator, AmplitudeAssignDeploymentsOperator,
    AmplitudeCreateExperimentOperator, AmplitudeCreateFlagOperator, AmplitudeCreateHoldoutGroupOperator,
    AmplitudeCreateMutexGroupOperator, AmplitudeDecideExperimentOperator, AmplitudeExportCohortOperator,
    AmplitudeKillSwitchOperator, AmplitudeRampRolloutOperator, AmplitudeSetVariantWeightsOperator,
    AmplitudeSyncVariantCohortsOperator, AmplitudeSyncVariantUsersOperator, AmplitudeUpdateHoldoutGroupOperator,
    AmplitudeUpdateMutexSlotOperator, AmplitudeUpdateOperator,
)
from airflow_amplitude_experiment.sensors import AmplitudeEndDateSensor, AmplitudeStateSensor

with DAG("everything", schedule="@daily", start_date=datetime(2026, 1, 1), params={"id": "1", "p": 5}) as dag:
    @task
    def find() -> str:
        return "21002"

    AmplitudeApiCallOperator(task_id="plain", call=flags.variants("{{ params.id }}"))
    AmplitudeApiCallOperator(task_id="lazy", call=flags.variants(find()))
    AmplitudeApiCallOperator(
        task_id="deep", unguarded="a test",
        call=flags.update("1", tags={"b", "a"}, target_segments=[{
            "name": "x", "percentage": 5, "rollout_weights": {"on": 1},
            "conditions": [{"type": "property", "prop": "gp:x", "op": "is", "values": ["{{ params.p }}"]}],
        }]),
    )
    AmplitudeApiCallOperator.partial(task_id="mapped", endpoint="flags.get").expand(arguments=[{"id": "1"}])
    AmplitudeApiCallOperator.partial(task_id="mapped_call").expand(call=[flags.get("1"), flags.get("2")])
    AmplitudeCreateFlagOperator(task_id="flag", key="a", project_id="1", variants=[{"key": "on", "payload": {"x": 1}}])
    AmplitudeCreateExperimentOperator(task_id="experiment", key="b", project_id="1")
    AmplitudeRampRolloutOperator(task_id="ramp", flag_key="a", percentage="{{ params.p }}")
    AmplitudeRampRolloutOperator.partial(task_id="ramps", percentage=5).expand(flag_key=["a", "b"])
    AmplitudeKillSwitchOperator(task_id="kill", keys=["a"])
    AmplitudeEndDateSensor(task_id="end", experiment_key="b", deadline="{{ params.id }}")
    AmplitudeStateSensor(task_id="until", flag_key="a", until={"percentage": "{{ params.p }}", "tags": ["b", "a"]})
    AmplitudeStateSensor.partial(task_id="each", until={"enabled": True}).expand(flag_key=["a", "b"])
    AmplitudeStateSensor(task_id="asked", flag_key="a", until_callable=lambda found, context: True, deferrable=False)
    AmplitudeSyncVariantUsersOperator(task_id="users", flag_key="a", variant="on", users=find(), mode="add")
    AmplitudeSyncVariantUsersOperator(
        task_id="query", flag_key="a", variant="on", sql="SELECT id FROM x WHERE p = %(p)s", conn_id="warehouse",
        parameters={"p": "{{ params.p }}"}, mode="replace", keep=["t"], max_change="10%",
    )
    AmplitudeSyncVariantCohortsOperator(task_id="cohorts", flag_key="a", variant="on", cohorts=["c"], mode="remove")
    AmplitudeExportCohortOperator(task_id="export", cohort_id="c", path="file:///tmp/c.csv")
    AmplitudeUpdateOperator(task_id="update", flag_key="a", add_tags=("b", "a"), segment="x",
                            segment_changes={"rolloutWeights": {"on": 1}})
    AmplitudeSetVariantWeightsOperator(task_id="weights", flag_key="a", weights={"on": 1})
    AmplitudeDecideExperimentOperator(task_id="decide", experiment_key="b", decision="rollout", variant="treatment")
    AmplitudeArchiveOperator(task_id="archive", experiment_key="b")
    AmplitudeAssignDeploymentsOperator(task_id="deploy", flag_key="a", deployments=["{{ params.id }}"])
    AmplitudeCreateMutexGroupOperator(task_id="mutex", key="m", slots=[{"percentage": 100, "experiments": ["b"]}])
    AmplitudeUpdateMutexSlotOperator(task_id="slot", mutex_key="m", slot=1, experiments=["b"])
    AmplitudeCreateHoldoutGroupOperator(task_id="holdout", key="h", holdout_percentage=5)
    AmplitudeUpdateHoldoutGroupOperator(task_id="held", holdout_key="h", experiments=["b"], mode="remove")
"""

TWICE = """
from airflow.sdk import DAG, Param
from airflow_amplitude_experiment.operators import AmplitudeRampRolloutOperator

with DAG("twice", schedule=None, params={"key": Param("x", type="string"), "p": 1}) as dag:
    AmplitudeRampRolloutOperator(
        task_id="ramp", flag_key="{{ params.key }}", percentage="{{ params.p }}", reason="{{ run_id }}"
    )
"""

SERIALIZE = """
import importlib.util, json, sys
from pathlib import Path
from airflow.serialization.serialized_objects import SerializedDAG
try:
    from airflow.serialization.serialized_objects import DagSerialization
    to_dict = DagSerialization.to_dict
except ImportError:
    to_dict = SerializedDAG.to_dict
found = {}
for path in sys.argv[1:]:
    texts = set()
    for number in range(5):
        spec = importlib.util.spec_from_file_location("parsed", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        texts.add(json.dumps(to_dict(module.dag), sort_keys=True, default=str))
    assert len(texts) == 1, f"five parses of {path} in one process differ"
    found[Path(path).name] = texts.pop()
print("SERIALIZED", json.dumps(found))
"""


def serialized(*paths: Path, seed: int) -> dict[str, str]:
    """Parse DAG files five times in a fresh process, and return the one serialized form of each, by its name."""
    environment = {**os.environ, "PYTHONHASHSEED": str(seed)}
    result = subprocess.run(
        [sys.executable, "-c", SERIALIZE, *map(str, paths)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return dict(json.loads(result.stdout.split("SERIALIZED ", 1)[1]))


def test_ten_parses_give_one_dag_version(tmp_path):
    path = tmp_path / "everything.py"
    path.write_text(EVERYTHING)
    one, other = (serialized(path, seed=seed)["everything.py"] for seed in (1, 2))
    assert one == other
    assert " object at 0x" not in one
    tasks = {each["__var"]["task_id"]: each["__var"] for each in json.loads(one)["dag"]["tasks"]}
    assert tasks["find"]["downstream_task_ids"] == ["lazy"]
    assert tasks["plain"]["arguments"] == {"id": "{{ params.id }}"}


def test_ten_parses_of_each_example_give_one_dag_version():
    one, other = (serialized(*EXAMPLES, seed=seed) for seed in (1, 2))
    assert one == other
    assert set(one) == {path.name for path in EXAMPLES}
    assert [name for name, text in one.items() if " object at 0x" in text] == []


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_is_short_and_says_how_it_is_scheduled(path):
    text = path.read_text()
    assert len(text.splitlines()) < 60
    for explicit in ("schedule=", "catchup=False", "max_active_runs=", "retries", "# No dagrun_timeout: "):
        assert explicit in text, explicit
    assert "dagrun_timeout=" not in text


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_never_asks_for_the_date_of_its_run(path):
    """A run that a person triggers has none: ``ds``, ``ts`` and the data interval would fail there."""
    date = r"\b(?:ds|ts|ds_\w+|ts_\w+|logical_date|data_interval_\w+)\b"
    assert re.findall(rf"{{{{[^}}]*{date}|def \w+\([^)]*{date}|\[.{date}", path.read_text()) == []


def test_the_query_of_the_production_rollout_is_the_documented_one():
    page = (EXAMPLES[0].parents[1] / "docs" / "guardrails.md").read_text()
    (documented,) = re.findall(r"^```sql snowflake variants\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    assert (EXAMPLES[0].parent / "sql" / "checkout_rate.sql").read_text().endswith(f"\n{documented}")


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_parses_without_a_connection_or_a_socket(path, tmp_path):
    """The parse runs in a process that can't open any socket and knows no connection."""
    blocked = tmp_path / "sitecustomize.py"
    blocked.write_text(
        "import socket\n"
        "def refuse(*_, **__): raise RuntimeError('a DAG file opened a socket while it was parsed')\n"
        "socket.socket.connect = refuse\nsocket.getaddrinfo = refuse\n"
    )
    code = (
        f"import runpy, sys; names = runpy.run_path({str(path)!r}); "
        "bad = [m for m in sys.modules if m.startswith('airflow_amplitude_experiment.') and "
        "m.split('.')[1] in ('emulator',) or m.endswith(('api.models', 'api._client'))]; "
        "assert not bad, bad; assert names['dag'].dag_id"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW_CONN")}
    environment["PYTHONPATH"] = str(tmp_path)
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr[-3000:]


def test_dag_test_twice_in_one_process_sends_the_right_flag_each_time(airflow_db, amplitude_emulator, monkeypatch):
    connection = amplitude_emulator.airflow_connection(requests_per_second=100)
    monkeypatch.setenv("AIRFLOW_CONN_AMPLITUDE_EXPERIMENT_DEFAULT", connection)
    for key in ("first", "second"):
        amplitude_emulator.add_flag(key, enabled=True)
    dag = loaded(airflow_db, "twice", TWICE)
    for key, percentage in (("first", 5), ("second", 30)):
        run = dag.test(run_conf={"key": key, "p": percentage})
        assert run.state == "success"
    assert amplitude_emulator.flag("first")["rolloutPercentage"] == 5
    assert amplitude_emulator.flag("second")["rolloutPercentage"] == 30
