"""What a write announces to other DAGs, and when it announces nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from types import SimpleNamespace
from urllib.parse import unquote, urlsplit

import pytest
from airflow.providers.common.compat.sdk import AirflowException, Asset, AssetAlias
from airflow.sdk import DAG
from airflow.sdk.execution_time.context import OutletEventAccessors

from airflow_amplitude_experiment.api import experiments, flags
from airflow_amplitude_experiment.operators import (
    AmplitudeApiCallOperator,
    AmplitudeCreateFlagOperator,
    AmplitudeKillSwitchOperator,
    AmplitudeRampRolloutOperator,
    ramp,
)
from airflow_amplitude_experiment.operators._assets import WRITES, announce, asset_uri
from tests.builders import a_context, connect
from tests.dags import loaded

ALIAS = AssetAlias("amplitude-experiment-writes")
RECORD = {"project_id": "100001", "kind": "flag", "key": "new-checkout", "before": 1, "after": 10, "run_id": "r"}
WRITERS = {
    "ramp": lambda **more: AmplitudeRampRolloutOperator(task_id="ramp", flag_key="f", percentage=5, **more),
    "kill": lambda **more: AmplitudeKillSwitchOperator(task_id="kill", keys=["f"], **more),
    "create": lambda **more: AmplitudeCreateFlagOperator(task_id="create", key="f", **more),
    "call": lambda **more: AmplitudeApiCallOperator(task_id="call", call=flags.get("1"), **more),
}

SERIALIZE = """
import json
from airflow.sdk import DAG
from airflow_amplitude_experiment.operators import AmplitudeKillSwitchOperator
try:
    from airflow.serialization.serialized_objects import DagSerialization as Serializer
except ImportError:  # Airflow 3.1
    from airflow.serialization.serialized_objects import SerializedDAG as Serializer

with DAG("d") as dag:
    AmplitudeKillSwitchOperator(task_id="kill", keys=["f"])
print("DAG", json.dumps(Serializer.to_dict(dag), sort_keys=True))
"""

WRITING = """
from airflow.sdk import DAG
from airflow_amplitude_experiment.operators import AmplitudeRampRolloutOperator

with DAG("writing", schedule=None):
    AmplitudeRampRolloutOperator(task_id="ramp", flag_key="what?", percentage=25)
    AmplitudeRampRolloutOperator(task_id="there_already", flag_key="new-checkout", percentage=10)
"""


@pytest.fixture
def amplitude(amplitude_emulator, monkeypatch):
    connect(monkeypatch, amplitude_emulator)
    amplitude_emulator.add_flag("new-checkout", enabled=True, rolloutPercentage=10)
    amplitude_emulator.add_flag("off", enabled=False, rolloutPercentage=0)
    return amplitude_emulator


@pytest.fixture
def context():
    return a_context() | {"outlet_events": OutletEventAccessors()}


def announced(context):
    """Return the assets' addresses and what goes with each."""
    events = context["outlet_events"][ALIAS].asset_alias_events
    return {event.dest_asset_key.uri: event.extra for event in events}


# --- the outlet --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("writer", WRITERS)
def test_a_task_that_writes_has_the_alias_as_its_outlet(writer):
    assert WRITERS[writer]().outlets == [ALIAS]


@pytest.mark.parametrize("outlets", [Asset("mine"), [Asset("mine")], [Asset("mine"), AssetAlias(WRITES)]])
def test_a_users_own_outlets_stay_and_the_alias_comes_once(outlets):
    assert WRITERS["ramp"](outlets=outlets).outlets == [Asset("mine"), ALIAS]


def test_the_users_list_is_not_changed():
    mine = [Asset("mine")]
    WRITERS["ramp"](outlets=mine)
    assert mine == [Asset("mine")]


def test_outlets_of_the_dags_default_arguments_stay():
    with DAG("defaults", default_args={"outlets": [Asset("mine")]}):
        first, second = WRITERS["ramp"](), WRITERS["kill"]()
    assert first.outlets == second.outlets == [Asset("mine"), ALIAS]


def test_a_mapped_task_gets_the_alias_when_it_runs():
    with DAG("mapped"):
        mapped = AmplitudeRampRolloutOperator.partial(task_id="ramp", percentage=5).expand(flag_key=["a", "b"])
    task = mapped.operator if hasattr(mapped, "operator") else mapped
    assert task.unmap({"flag_key": "a"}).outlets == [ALIAS]


def test_the_serialized_dag_is_the_same_at_every_parse():
    runs = [subprocess.run([sys.executable, "-c", SERIALIZE], capture_output=True, text=True, check=True) for _ in "12"]
    first, second = (run.stdout.partition("DAG ")[2] for run in runs)
    assert first == second
    assert WRITES in first


# --- the address -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["new-checkout", "a/b", "what?", "50%", "a#b", "a b", "größe", "x@y:z", ".."])
def test_every_key_has_an_address_of_its_own_that_airflow_keeps_as_it_is(key):
    uri = asset_uri("100001", "flag", key)
    assert Asset(uri=uri).uri == uri
    parts = urlsplit(uri)
    assert (parts.scheme, parts.netloc, parts.query, parts.fragment) == ("amplitude-experiment", "100001", "", "")
    assert [unquote(part) for part in parts.path.split("/")] == ["", "flag", key]


def test_an_announcement_says_from_where_to_where_and_in_which_run(context):
    announce(context, RECORD)
    extra = {"from": 1, "to": 10, "run": "r"}
    assert announced(context) == {"amplitude-experiment://100001/flag/new-checkout": extra}
    json.dumps(extra)


def test_without_outlet_events_nothing_is_announced_and_nothing_fails():
    announce({"ti": SimpleNamespace()}, RECORD)


# --- what is announced -------------------------------------------------------------------------------------


def test_a_ramp_announces_its_object(amplitude, context):
    AmplitudeRampRolloutOperator(task_id="r", flag_key="new-checkout", percentage=25).execute(context)
    extra = {"from": 10, "to": 25, "enabled": True, "run": "manual__1"}
    assert announced(context) == {"amplitude-experiment://100001/flag/new-checkout": extra}


def test_a_ramp_that_wrote_nothing_announces_nothing(amplitude, context):
    AmplitudeRampRolloutOperator(task_id="r", flag_key="new-checkout", percentage=10).execute(context)
    assert announced(context) == {}


def test_a_kill_announces_what_it_switched_off_and_not_what_was_off(amplitude, context):
    AmplitudeKillSwitchOperator(task_id="k", kind="flag", keys=["new-checkout", "off"]).execute(context)
    extra = {"from": 10, "to": 10, "enabled": False, "run": "manual__1"}
    assert announced(context) == {"amplitude-experiment://100001/flag/new-checkout": extra}


def test_a_dry_kill_announces_nothing(amplitude, context):
    AmplitudeKillSwitchOperator(task_id="k", kind="flag", keys=["new-checkout"], dry_run=True).execute(context)
    assert announced(context) == {}


def test_a_create_announces_the_new_object_and_adopting_it_nothing(amplitude, context):
    create = {"key": "new", "enabled": True, "rollout_percentage": 5}
    AmplitudeCreateFlagOperator(task_id="c", **create).execute(context)
    extra = {"to": 5, "enabled": True, "run": "manual__1"}
    assert announced(context) == {"amplitude-experiment://100001/flag/new": extra}
    again = a_context() | {"outlet_events": OutletEventAccessors()}
    AmplitudeCreateFlagOperator(task_id="c", adopt_live=True, **create).execute(again)
    assert announced(again) == {}


def test_a_call_announces_the_object_as_it_stands_afterwards(amplitude, context):
    flag_id = amplitude.flag("new-checkout")["id"]
    call = flags.update(flag_id, rollout_percentage=20)
    AmplitudeApiCallOperator(task_id="a", call=call, unguarded="a test").execute(context)
    extra = {"from": 10, "to": 20, "enabled": True, "run": "manual__1"}
    assert announced(context) == {"amplitude-experiment://100001/flag/new-checkout": extra}


def test_a_call_that_creates_announces_the_new_object(amplitude, context):
    AmplitudeApiCallOperator(task_id="a", call=experiments.create(project_id="100001", key="e")).execute(context)
    assert list(announced(context)) == ["amplitude-experiment://100001/experiment/e"]


def test_a_call_that_only_reads_announces_nothing_and_reads_once(amplitude, context):
    flag_id = amplitude.flag("new-checkout")["id"]
    amplitude.clear_requests()
    AmplitudeApiCallOperator(task_id="a", call=flags.get(flag_id)).execute(context)
    assert announced(context) == {}
    assert len(amplitude.requests()) == 1


@pytest.mark.parametrize(
    "operator",
    [
        lambda _: AmplitudeRampRolloutOperator(task_id="r", flag_key="new-checkout", percentage=25),
        lambda _: AmplitudeKillSwitchOperator(task_id="k", kind="flag", keys=["new-checkout"]),
        lambda _: AmplitudeCreateFlagOperator(task_id="c", key="new", project_id="100001"),
        lambda flag_id: AmplitudeApiCallOperator(
            task_id="a", call=flags.update(flag_id, rollout_percentage=20), unguarded="a test"
        ),
    ],
)
def test_a_read_only_connection_announces_nothing(amplitude, monkeypatch, context, operator):
    connect(monkeypatch, amplitude, mode="read_only")
    operator(amplitude.flag("new-checkout")["id"]).execute(context)
    assert announced(context) == {}


def test_a_write_that_reading_back_does_not_confirm_is_not_announced(amplitude, monkeypatch, context):
    monkeypatch.setattr(ramp, "SECONDS_BEFORE_ANOTHER_LOOK", 0)
    amplitude.options(approvals="pending", approval_scope="live")
    with pytest.raises(AirflowException, match="approval may be pending"):
        AmplitudeRampRolloutOperator(task_id="r", flag_key="new-checkout", percentage=25).execute(context)
    assert announced(context) == {}


def test_airflow_registers_what_was_written_and_only_that(amplitude, airflow_db):
    from airflow.models.asset import AssetEvent, AssetModel
    from airflow.utils.session import create_session
    from sqlalchemy import select

    amplitude.add_flag("what?", enabled=True, rolloutPercentage=10)
    assert loaded(airflow_db, "writing", WRITING).test().state == "success"
    with create_session() as session:
        found = select(AssetModel.uri, AssetEvent.extra, AssetEvent.source_task_id).join(
            AssetEvent, AssetEvent.asset_id == AssetModel.id
        )
        ((uri, extra, task_id),) = session.execute(found).all()
    assert (uri, task_id) == ("amplitude-experiment://100001/flag/what%3F", "ramp")
    assert (extra["from"], extra["to"]) == (10, 25)
