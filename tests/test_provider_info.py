"""What Airflow reads at start-up: a mistake in it breaks every ``airflow`` command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points, metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from airflow_amplitude_experiment.provider_info import get_provider_info

DISTRIBUTION = "airflow-provider-amplitude-experiment"
TYPE = "amplitude_experiment"
HOOK = "airflow_amplitude_experiment.hooks.experiment.AmplitudeExperimentHook"


def test_it_holds_to_airflows_own_schema() -> None:
    import airflow

    schema = json.loads((Path(airflow.__path__[0]) / "provider_info.schema.json").read_text())
    jsonschema.validate(get_provider_info(), schema)


def test_its_package_name_is_that_of_the_distribution() -> None:
    assert get_provider_info()["package-name"] == DISTRIBUTION == metadata(DISTRIBUTION)["Name"]


def test_airflow_finds_it_by_its_entry_point() -> None:
    (found,) = [
        each for each in entry_points(group="apache_airflow_provider") if each.dist and each.dist.name == DISTRIBUTION
    ]
    assert found.load() is get_provider_info


def _classes(info: Any) -> list[str]:
    """Every class that is named anywhere in the provider's metadata."""
    if isinstance(info, dict):
        return [name for each in info.values() for name in _classes(each)]
    if isinstance(info, list):
        return [name for each in info for name in _classes(each)]
    is_class = isinstance(info, str) and info.startswith("airflow_amplitude_experiment.")
    return [info] if is_class else []


@pytest.mark.parametrize("name", _classes(get_provider_info()))
def test_every_class_that_it_names_can_be_imported(name: str) -> None:
    module, _, attribute = name.rpartition(".")
    assert getattr(import_module(module), attribute).__name__ == attribute


def test_every_class_with_a_link_is_known_to_airflow() -> None:
    from airflow_amplitude_experiment.operators._base import TargetMixin

    used = {f"{type(link).__module__}.{type(link).__name__}" for link in TargetMixin.operator_extra_links}
    assert used <= set(get_provider_info()["extra-links"])


def test_the_form_asks_for_exactly_what_the_hook_reads() -> None:
    from airflow_amplitude_experiment.hooks.extra import FIELDS

    assert set(get_provider_info()["connection-types"][0]["conn-fields"]) == FIELDS


def test_every_placeholder_and_label_belongs_to_a_field_of_the_form() -> None:
    form = get_provider_info()["connection-types"][0]
    standard = {"host", "password", "login", "schema", "port", "extra", "description"}
    behaviour = form["ui-field-behaviour"]
    assert set(behaviour["placeholders"]) <= standard | set(form["conn-fields"])
    assert set(behaviour["relabeling"]) | set(behaviour["hidden-fields"]) <= standard


def test_every_default_of_the_form_is_one_that_the_form_allows() -> None:
    for field in get_provider_info()["connection-types"][0]["conn-fields"].values():
        jsonschema.Draft7Validator.check_schema(field["schema"])
        if "default" in field["schema"]:
            jsonschema.validate(field["schema"]["default"], field["schema"])


@cache
def _airflow(*arguments: str) -> list[dict[str, Any]]:
    """Run an ``airflow`` command as a person would, and return its JSON."""
    run = subprocess.run(
        [sys.executable, "-m", "airflow", *arguments, "--output", "json"],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"AIRFLOW__LOGGING__LOGGING_LEVEL": "ERROR"},
        check=True,
    )
    rows: list[dict[str, Any]] = json.loads(run.stdout[run.stdout.index("[") :])
    return rows


def test_airflow_lists_the_connection_type_and_imports_its_hook() -> None:
    (row,) = [each for each in _airflow("providers", "hooks") if each["connection_type"] == TYPE]
    assert row["class"] == HOOK
    assert row["hook_name"] == "Amplitude Experiment"
    assert row["package_name"] == DISTRIBUTION


def _shows_forms_on_the_command_line() -> bool:
    """Before 3.2 Airflow shows no form at all there unless WTForms is installed."""
    import airflow

    return airflow.__version__ >= "3.2" or find_spec("wtforms") is not None


@pytest.mark.skipif(not _shows_forms_on_the_command_line(), reason="Airflow 3.1 without WTForms shows no forms")
def test_airflow_shows_a_field_for_each_setting_on_the_command_line() -> None:
    shown = {each["connection_parameter_name"] for each in _airflow("providers", "widgets") if each["class"] == HOOK}
    fields = get_provider_info()["connection-types"][0]["conn-fields"]
    assert shown == {f"extra__{TYPE}__{name}" for name in fields}
    assert {"field_behaviours": TYPE} in _airflow("providers", "behaviours")


def test_the_form_of_the_ui_holds_every_field_with_its_label() -> None:
    (form,) = [each for each in _forms() if each["connection_type"] == TYPE]
    assert form["standard_fields"]["password"]["title"] == "Management API key"
    assert form["standard_fields"]["port"]["hidden"]
    fields = get_provider_info()["connection-types"][0]["conn-fields"]
    assert list(form["extra_fields"]) == list(fields)
    for name, field in form["extra_fields"].items():
        assert field["schema"]["title"] == fields[name]["label"]
        assert field["schema"].get("enum") == fields[name]["schema"].get("enum")
        assert field["description"] == fields[name]["description"]


def _forms() -> list[dict[str, Any]]:
    """What ``GET /ui/connections/hook_meta`` answers, in a process of its own: on 3.1 it stands in for WTForms."""
    code = (
        "import json;"
        "from airflow.api_fastapi.core_api.services.ui.connections import HookMetaService;"
        f"print('FORMS' + json.dumps([each.model_dump(mode='json') for each in HookMetaService.hook_meta_data()"
        f" if each.connection_type == {TYPE!r}]))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stderr
    forms: list[dict[str, Any]] = json.loads(run.stdout.rpartition("FORMS")[2])
    return forms
