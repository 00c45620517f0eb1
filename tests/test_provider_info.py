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
PACKAGE = "airflow_amplitude_experiment"
FORMS = {each["connection-type"]: each for each in get_provider_info()["connection-types"]}
SECRET = {"amplitude_experiment": "Management API key", "amplitude_analytics": "Project secret key"}
each_type = pytest.mark.parametrize("conn_type", FORMS)


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


def _named(info: Any) -> list[str]:
    """Every class and module of ours that is named anywhere in the provider's metadata."""
    if isinstance(info, dict):
        return [name for each in info.values() for name in _named(each)]
    if isinstance(info, list):
        return [name for each in info for name in _named(each)]
    return [info] if isinstance(info, str) and info.startswith(f"{PACKAGE}.") else []


@pytest.mark.parametrize("name", _named(get_provider_info()))
def test_every_class_and_module_that_it_names_can_be_imported(name: str) -> None:
    module, _, attribute = name.rpartition(".")
    if attribute[0].isupper():
        assert getattr(import_module(module), attribute).__name__ == attribute
    else:
        assert import_module(name).__name__ == name


@pytest.mark.parametrize("kind", ["operators", "sensors", "triggers"])
def test_every_module_of_a_kind_is_listed(kind: str) -> None:
    (listed,) = get_provider_info()[kind]
    there = Path(import_module(f"{PACKAGE}.{kind}").__path__[0]).glob("[!_]*.py")
    assert sorted(listed["python-modules"]) == sorted(f"{PACKAGE}.{kind}.{path.stem}" for path in there)


def test_every_hook_of_a_connection_type_is_listed() -> None:
    (listed,) = get_provider_info()["hooks"]
    hooks = {form["hook-class-name"].rpartition(".")[0] for form in FORMS.values()}
    assert set(listed["python-modules"]) == hooks


def test_every_list_belongs_to_an_integration_that_is_described() -> None:
    info = get_provider_info()
    described = {each["integration-name"] for each in info["integrations"]}
    used = {each["integration-name"] for kind in ("operators", "sensors", "hooks", "triggers") for each in info[kind]}
    assert used == described


def test_every_class_with_a_link_is_known_to_airflow() -> None:
    from airflow_amplitude_experiment.operators._base import TargetMixin

    used = {f"{type(link).__module__}.{type(link).__name__}" for link in TargetMixin.operator_extra_links}
    assert used <= set(get_provider_info()["extra-links"])


def test_the_form_asks_for_exactly_what_the_hook_reads() -> None:
    from airflow_amplitude_experiment.hooks.extra import FIELDS

    assert set(FORMS["amplitude_experiment"]["conn-fields"]) == FIELDS
    assert set(FORMS["amplitude_analytics"]["conn-fields"]) == {"region", "timezone", "timeout"}


@each_type
def test_the_form_is_that_of_the_hook(conn_type: str) -> None:
    module, _, name = FORMS[conn_type]["hook-class-name"].rpartition(".")
    hook = getattr(import_module(module), name)
    assert (hook.conn_type, hook.hook_name) == (conn_type, FORMS[conn_type]["hook-name"])
    behaviour = FORMS[conn_type]["ui-field-behaviour"]
    assert hook.get_ui_field_behaviour() == {key.replace("-", "_"): value for key, value in behaviour.items()}


@each_type
def test_every_placeholder_and_label_belongs_to_a_field_of_the_form(conn_type: str) -> None:
    standard = {"host", "password", "login", "schema", "port", "extra", "description"}
    behaviour = FORMS[conn_type]["ui-field-behaviour"]
    assert set(behaviour["placeholders"]) <= standard | set(FORMS[conn_type]["conn-fields"])
    assert set(behaviour["relabeling"]) | set(behaviour["hidden-fields"]) <= standard


@each_type
def test_every_default_of_the_form_is_one_that_the_form_allows(conn_type: str) -> None:
    for field in FORMS[conn_type]["conn-fields"].values():
        jsonschema.Draft7Validator.check_schema(field["schema"])
        if "default" in field["schema"]:
            jsonschema.validate(field["schema"]["default"], field["schema"])


def test_a_setting_is_of_a_version_that_the_changelog_knows() -> None:
    changelog = (Path(__file__).parent.parent / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = [line.split()[1] for line in changelog.splitlines() if line.startswith("## ")]
    for section in get_provider_info()["config"].values():
        for option in section["options"].values():
            assert option["version_added"] in versions


def test_airflow_knows_the_setting_audit_path_which_is_empty_unless_set() -> None:
    code = (
        "from airflow.configuration import conf;"
        "print('PATH', repr(conf.get('amplitude_experiment', 'audit_path', fallback=None)))"
    )

    def path(**settings: str) -> str:
        run = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            timeout=120,
            env=os.environ | settings,
            check=True,
        )
        return run.stdout.rpartition("PATH ")[2].strip()

    assert path() == "None"
    assert path(AIRFLOW__AMPLITUDE_EXPERIMENT__AUDIT_PATH="file:///audit") == "'file:///audit'"


def test_airflow_describes_the_setting_to_whoever_lists_settings() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "airflow", "config", "list", "--section", "amplitude_experiment", "--defaults"],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "audit_path" in run.stdout


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


@each_type
def test_airflow_lists_the_connection_type_and_imports_its_hook(conn_type: str) -> None:
    (row,) = [each for each in _airflow("providers", "hooks") if each["connection_type"] == conn_type]
    assert row["class"] == FORMS[conn_type]["hook-class-name"]
    assert row["hook_name"] == FORMS[conn_type]["hook-name"]
    assert row["package_name"] == DISTRIBUTION


def _shows_forms_on_the_command_line() -> bool:
    """Before 3.2 Airflow shows no form at all there unless WTForms is installed."""
    import airflow

    return airflow.__version__ >= "3.2" or find_spec("wtforms") is not None


@each_type
@pytest.mark.skipif(not _shows_forms_on_the_command_line(), reason="Airflow 3.1 without WTForms shows no forms")
def test_airflow_shows_a_field_for_each_setting_on_the_command_line(conn_type: str) -> None:
    hook, fields = FORMS[conn_type]["hook-class-name"], FORMS[conn_type]["conn-fields"]
    shown = {each["connection_parameter_name"] for each in _airflow("providers", "widgets") if each["class"] == hook}
    assert shown == {f"extra__{conn_type}__{name}" for name in fields}
    assert {"field_behaviours": conn_type} in _airflow("providers", "behaviours")


@each_type
def test_the_form_of_the_ui_holds_every_field_with_its_label(conn_type: str) -> None:
    (form,) = [each for each in _forms() if each["connection_type"] == conn_type]
    assert form["standard_fields"]["password"]["title"] == SECRET[conn_type]
    assert form["standard_fields"]["port"]["hidden"]
    fields = FORMS[conn_type]["conn-fields"]
    assert list(form["extra_fields"]) == list(fields)
    for name, field in form["extra_fields"].items():
        assert field["schema"]["title"] == fields[name]["label"]
        assert field["schema"].get("enum") == fields[name]["schema"].get("enum")
        assert field["description"] == fields[name]["description"]


@cache
def _forms() -> list[dict[str, Any]]:
    """What ``GET /ui/connections/hook_meta`` answers, in a process of its own: on 3.1 it stands in for WTForms."""
    code = (
        "import json;"
        "from airflow.api_fastapi.core_api.services.ui.connections import HookMetaService;"
        "print('FORMS' + json.dumps([each.model_dump(mode='json') for each in HookMetaService.hook_meta_data()"
        " if each.connection_type.startswith('amplitude')]))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stderr
    forms: list[dict[str, Any]] = json.loads(run.stdout.rpartition("FORMS")[2])
    return forms
