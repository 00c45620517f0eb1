"""The example DAGs that wait for Amplitude, run against the emulator and a Slack that listens."""

from __future__ import annotations

import json
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from airflow_amplitude_experiment.triggers import _board, _moments, _poll
from tests.dags import loaded
from tests.e2e.surroundings import Slack

EXAMPLES = Path(__file__).parents[1] / "example_dags"
KEY = "shorter-onboarding"
START = datetime(2026, 11, 20, 12, tzinfo=UTC)


@pytest.fixture
def slack(monkeypatch):
    """A Slack on this machine, and the connection of the examples to it."""
    with Slack() as listening:
        connection = {"conn_type": "slack", "password": "xoxb-of-no-slack", "extra": {"base_url": listening.url}}
        monkeypatch.setenv("AIRFLOW_CONN_SLACK", json.dumps(connection))
        yield listening


@pytest.fixture
def amplitude(amplitude_emulator, monkeypatch):
    """The emulator with an experiment that nobody has started, and a connection to it."""
    monkeypatch.setenv("AIRFLOW_CONN_AMPLITUDE_EXPERIMENT_DEFAULT", amplitude_emulator.airflow_connection())
    amplitude_emulator.add_experiment(KEY, enabled=False)
    return amplitude_emulator


def an_example(airflow_db, name):
    return loaded(airflow_db, name, (EXAMPLES / f"{name}.py").read_text())


# --- follow_experiment ---


@pytest.fixture
def in_the_app(monkeypatch):
    """What people do in Amplitude's app: one thing each time that nothing is left to do but to wait."""
    clock, to_do = [START], []

    async def nap(seconds, changed):
        clock[0] += timedelta(seconds=seconds)
        if to_do and seconds > 30:
            to_do.pop(0)()

    for module in (_board, _moments, _poll):
        monkeypatch.setattr(module, "now", lambda: clock[0])
    monkeypatch.setattr(_board, "nap", nap)
    return to_do


def test_slack_hears_what_becomes_of_an_experiment(airflow_db, amplitude, slack, in_the_app):
    in_the_app += [
        lambda: amplitude.change(KEY, enabled=True),
        lambda: amplitude.change(KEY, rolloutPercentage=10),
        lambda: amplitude.change(KEY, decision="continue-running"),
        lambda: amplitude.change(KEY, decision="rollout"),
        lambda: amplitude.change(KEY, archive=True),
    ]
    run = an_example(airflow_db, "follow_experiment").test(run_conf={"experiment": KEY})
    assert str(run.state) == "success"
    assert not in_the_app
    began, decided = slack.messages
    assert began["channel"] == decided["channel"] == "#experiments"
    assert began["text"] == f"`{KEY}` has users."
    assert decided["text"].startswith(f"`{KEY}` is decided: *rollout*.")


def test_slack_hears_of_an_experiment_that_is_archived_without_a_decision(airflow_db, amplitude, slack, in_the_app):
    pytest.importorskip("airflow.triggers.shared_stream", reason="here dag.test() tells no callback what went wrong")
    in_the_app += [lambda: amplitude.change(KEY, archive=True)]
    run = an_example(airflow_db, "follow_experiment").test(run_conf={"experiment": KEY})
    assert str(run.state) == "failed"
    (message,) = slack.messages
    assert message["text"].startswith(f"Experiment `{KEY}` is not *running*: RolloutRefused: Experiment {KEY}")
    assert "is archived" in message["text"]


# --- tell_who_changed_what ---


def an_event(*numbers, text="version {}"):
    changes = [
        {"project_id": "1", "id": "2", "to_version": number, "at": f"2026-11-20T12:{number:02}:00.000Z"}
        | {"text": text.format(number)}
        for number in numbers
    ]
    return SimpleNamespace(extra={"from_trigger": True, "payload": {"changes": changes}})


def gathered(*events):
    """What Airflow hands a task: events by asset, and on 3.1 an asset is no key of a dictionary."""
    by_name = defaultdict(list, {"amplitude_changes": list(events)})

    class Events:
        def __getitem__(self, asset):
            return by_name[asset.name]

    return Events()


def messages_of(dag, *events):
    return dag.get_task("messages").python_callable(gathered(*events))


def test_what_airflow_gathered_is_told_once_the_oldest_first(airflow_db):
    dag = an_example(airflow_db, "tell_who_changed_what")
    assert messages_of(dag, an_event(3, 2), an_event(2), an_event(1)) == ["version 1\nversion 2\nversion 3"]


def test_an_event_that_somebody_creates_by_hand_keeps_no_change_from_being_told(airflow_db):
    dag = an_example(airflow_db, "tell_who_changed_what")
    by_hand = SimpleNamespace(extra={"from_rest_api": True})
    assert messages_of(dag, by_hand, an_event(1)) == ["version 1"]


def test_many_changes_are_several_messages_and_none_is_left_out(airflow_db):
    dag = an_example(airflow_db, "tell_who_changed_what")
    messages = messages_of(dag, an_event(*range(50)))
    assert [len(each.splitlines()) for each in messages] == [20, 20, 10]
    assert "\n".join(messages).splitlines() == [f"version {number}" for number in range(50)]


def test_slack_gets_what_somebody_wrote_as_it_is_and_never_as_a_template_or_a_mention(airflow_db, slack, monkeypatch):
    dag = an_example(airflow_db, "tell_who_changed_what")
    written = "name A -> {{{{ 7 * 7 }}}} <!here> & so on"
    messages = messages_of(dag, an_event(1, text=written))
    monkeypatch.setattr(dag.get_task("messages"), "python_callable", lambda triggering_asset_events: messages)
    run = dag.test()
    assert str(run.state) == "success"
    (message,) = slack.messages
    assert message["channel"] == "#experiments"
    assert message["text"] == "name A -&gt; {{ 7 * 7 }} &lt;!here&gt; &amp; so on"
