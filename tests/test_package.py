"""What importing the package costs, and that the names users rely on are there (design §4 and §6).

Which modules are loaded is compared in fresh processes; how long it takes is measured by benchmarks/import_time.py.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "airflow_amplitude_experiment"
AIRFLOW = "from airflow.sdk import DAG, BaseHook, BaseOperator, BaseSensorOperator, task"
DAG_FILE = f"""
from airflow.sdk import DAG
from {PACKAGE}.operators import *
from {PACKAGE}.sensors import *
from {PACKAGE}.rollout import *
from {PACKAGE}.api import flags

with DAG("rollout"):
    AmplitudeStateSensor(task_id="until", flag_key="f", until={{"percentage": 50}})
    query = "select 1 where at between %(stage_start)s and %(stage_end)s"
    rate = SqlGuardrail("rate", sql=query, conn_id="warehouse", harm="decrease", mde="10%")
    staged_rollout(flag_key="f", plan=RolloutPlan.parse("1% 1h, 10% 1d, 100%"), guardrails=[rate])
    AmplitudeRampRolloutOperator(task_id="ramp", flag_key="f", percentage=10)
    AmplitudeKillSwitchOperator(task_id="kill", kind="flag", keys=["f"])
    AmplitudeApiCallOperator(task_id="call", call=flags.variants("1"))
    AmplitudeEndDateSensor(task_id="wait", experiment_key="e")
"""
HEAVY = ("fastapi", "starlette", "uvicorn", "requests", "aiohttp", "tenacity._asyncio", "concurrent.futures.process")


@cache
def loaded(code: str, *, after: str = "") -> frozenset[str]:
    """Return the modules that a fresh process loads for the code, beyond those that ``after`` has loaded."""
    script = f"import sys, json\n{after}\nbefore = set(sys.modules)\n{code}\n"
    run = subprocess.run(
        [sys.executable, "-c", script + "print('MODULES' + json.dumps(sorted(set(sys.modules) - before)))"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert run.returncode == 0, run.stderr
    return frozenset(json.loads(run.stdout.rpartition("MODULES")[2]))


def ours(modules: frozenset[str]) -> set[str]:
    return {name.removeprefix(f"{PACKAGE}.") for name in modules if name.startswith(PACKAGE)}


def test_the_package_and_its_provider_info_import_nothing_of_airflow() -> None:
    modules = loaded(f"import {PACKAGE}, {PACKAGE}.provider_info")
    assert ours(modules) == {PACKAGE, "provider_info"}
    assert not [name for name in modules if name.partition(".")[0] in ("airflow", "httpx", "pydantic")]


def test_the_api_imports_nothing_of_airflow() -> None:
    modules = loaded(f"from {PACKAGE}.api import Client, AsyncClient, flags, versions, AmplitudeError, RolloutRefused")
    assert not [name for name in modules if name.partition(".")[0] == "airflow"]


def test_the_emulator_imports_nothing_else_of_the_package_and_nothing_of_airflow() -> None:
    modules = loaded(f"import {PACKAGE}.emulator.handle, {PACKAGE}.emulator.__main__")
    assert {name.partition(".")[0] for name in ours(modules)} == {PACKAGE, "emulator"}
    assert not [name for name in modules if name.partition(".")[0] == "airflow"]


def test_pytest_loads_nothing_for_the_fixture_until_it_is_used() -> None:
    modules = loaded(f"import {PACKAGE}.emulator.pytest_plugin", after="import pytest")
    assert ours(modules) <= {PACKAGE, "emulator", "emulator.pytest_plugin"}


@pytest.mark.parametrize(
    "names",
    [
        "operators import *",
        "sensors import *",
        "triggers import *",
        "rollout import *",
        "hooks import *",
        "ui.links import *",
    ],
)
def test_naming_what_a_dag_file_names_loads_no_model_no_client_and_nothing_heavy(names: str) -> None:
    modules = loaded(f"from {PACKAGE}.{names}", after=AIRFLOW)
    forbidden = {"api.models", "api._client", "api._exchange", "hooks.guard", "hooks.rules", "hooks.lookup"}
    assert not ours(modules) & forbidden
    assert not [name for name in ours(modules) if name.startswith("emulator")]
    assert not [name for name in modules if name.startswith(HEAVY)]


def test_a_whole_dag_file_loads_no_model_no_client_and_nothing_heavy() -> None:
    modules = loaded(DAG_FILE, after=AIRFLOW)
    without = loaded("from airflow.sdk import DAG\nwith DAG('rollout'): pass", after=AIRFLOW)
    added = modules - without
    assert not ours(added) & {"api.models", "api._client", "api._exchange", "hooks.experiment", "hooks.guard"}
    assert not [name for name in ours(added) if name.startswith("emulator")]
    assert not [name for name in added if name.startswith(HEAVY)]


@pytest.mark.parametrize("name", ["flags", "experiments"])
def test_naming_the_calls_loads_what_describes_them_and_no_more(name: str) -> None:
    modules = loaded(f"from {PACKAGE}.api import {name}", after=AIRFLOW)
    assert ours(modules) - {PACKAGE} == {"api", "api._beta", "api._call", "api._checks", "api.objects"}
    assert modules == {module for module in modules if module.startswith(PACKAGE)}


def test_nothing_foreign_is_loaded_for_the_operators_but_the_base_of_links() -> None:
    """The heavy part of Airflow is there already; each of these modules is milliseconds in every parse."""
    modules = loaded(f"from {PACKAGE}.operators import *\nfrom {PACKAGE}.sensors import *", after=AIRFLOW)
    expected = (PACKAGE, "airflow.providers", "airflow.sdk.bases.operatorlink")
    assert not [name for name in modules if not name.startswith(expected)]


PUBLIC = {
    "api": "Client AsyncClient Call experiments flags mutexes holdouts deployments versions AmplitudeError "
    "AmplitudeAuthError AmplitudePermissionError AmplitudeInvalidRequest AmplitudeNotFound AmplitudeNotEditable "
    "AmplitudeRateLimited AmplitudeServerError AmplitudeConnectionError AmplitudeUnexpectedAnswer AmplitudeReadOnly "
    "RolloutRefused",
    "hooks": "AmplitudeExperimentHook AmplitudeAnalyticsHook",
    "operators": "AmplitudeCreateExperimentOperator AmplitudeCreateFlagOperator AmplitudeRampRolloutOperator "
    "AmplitudeKillSwitchOperator AmplitudeApiCallOperator AmplitudeReconcileRolloutOperator "
    "AmplitudeSyncVariantUsersOperator AmplitudeSyncVariantCohortsOperator AmplitudeExportCohortOperator "
    "AmplitudeUpdateOperator AmplitudeSetVariantWeightsOperator AmplitudeDecideExperimentOperator "
    "AmplitudeArchiveOperator AmplitudeCreateMutexGroupOperator AmplitudeUpdateMutexSlotOperator "
    "AmplitudeCreateHoldoutGroupOperator AmplitudeUpdateHoldoutGroupOperator AmplitudeAssignDeploymentsOperator",
    "sensors": "AmplitudeEndDateSensor AmplitudeStateSensor",
    "triggers": "AmplitudeChangeTrigger AmplitudeStateTrigger AmplitudeEndDateTrigger",
    "rollout": "RolloutPlan Stage Window staged_rollout SqlGuardrail SampleRatioGuardrail ThresholdGuardrail "
    "ChartGuardrail RolloutRefused",
    "emulator": "Emulator",
}


@pytest.mark.parametrize(("module", "name"), [(module, name) for module in PUBLIC for name in PUBLIC[module].split()])
def test_a_public_name_is_where_the_design_says(module: str, name: str) -> None:
    found = import_module(f"{PACKAGE}.{module}")
    assert getattr(found, name) is not None
    assert name in found.__all__


@pytest.mark.parametrize("module", PUBLIC)
def test_an_unknown_name_is_an_attribute_error(module: str) -> None:
    with pytest.raises(AttributeError):
        import_module(f"{PACKAGE}.{module}").nonsense  # noqa: B018


@pytest.mark.parametrize(
    ("function", "names"),
    [
        ("get_conn", ["paced"]),
        ("get_async_conn", ["paced"]),
        ("send", ["call", "reason", "found"]),
        ("asend", ["call", "reason", "found"]),
        ("find", ["kind", "key", "project_id"]),
        ("test_connection", []),
    ],
)
def test_the_hook_takes_what_the_design_says(function: str, names: list[str]) -> None:
    from inspect import signature

    from airflow_amplitude_experiment.hooks import AmplitudeExperimentHook

    assert list(signature(getattr(AmplitudeExperimentHook, function)).parameters) == ["self", *names]


def test_the_wheel_says_that_it_is_typed_and_holds_no_tests(tmp_path: Path) -> None:
    from hatchling.builders.wheel import WheelBuilder

    (built,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    names = zipfile.ZipFile(built).namelist()
    assert f"{PACKAGE}/py.typed" in names
    assert f"{PACKAGE}/provider_info.py" in names
    assert not [name for name in names if not name.startswith(PACKAGE) and ".dist-info/" not in name]
