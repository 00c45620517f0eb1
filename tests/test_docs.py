"""What the README and the pages in docs/ show: code that runs, links that lead somewhere."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest
from airflow.sdk import DAG

from airflow_amplitude_experiment.triggers._until import Until
from airflow_amplitude_experiment.triggers._what_changed import in_words

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCKS = [
    pytest.param(code, id=f"{page.name}-{number}")
    for page in PAGES
    for number, code in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL), 1)
]
LINKS = [
    pytest.param(page, link, id=f"{page.name}-{link}")
    for page in PAGES
    for link in re.findall(r"\]\((?!https?:|#)([^)#]+)[^)]*\)", page.read_text())
]


@pytest.mark.parametrize("code", BLOCKS)
def test_code_that_is_shown_compiles(code):
    compile(code, "shown", "exec")


@pytest.mark.parametrize(
    "code", [block for block in BLOCKS if re.search(r"staged_rollout\(|(Operator|Sensor|Watcher)\(", block.values[0])]
)
def test_what_is_shown_of_a_dag_makes_one(code):
    names = {}
    with DAG("around", schedule=None):
        exec(compile(code, "shown", "exec"), names)
    dags = [each for each in names.values() if isinstance(each, DAG)]
    assert not dags or all(dag.task_ids for dag in dags)


@pytest.mark.parametrize(("page", "link"), LINKS)
def test_a_link_leads_to_a_file(page, link):
    assert (page.parent / link).exists()


def test_the_event_that_is_shown_is_worded_as_the_trigger_words_it():
    (shown,) = re.findall(r"```json\n(.*?)```", (ROOT / "docs" / "changes.md").read_text(), re.DOTALL)
    (change,) = json.loads(shown)["changes"]
    assert change["text"] == in_words(change)


def test_everything_that_is_shown_to_wait_for_can_be_waited_for():
    shown = re.findall(r"^\| `(\{.*?\})` \|", (ROOT / "docs" / "waiting.md").read_text(), re.MULTILINE)
    assert len(shown) > 5
    for until in shown:
        Until(ast.literal_eval(until), "experiment")
