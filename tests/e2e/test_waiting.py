"""Waits on a real Airflow: what they ask of Amplitude, and that each ends once, whatever becomes of the triggerers.

Starting 50 tasks takes half a minute, so most is one story that happens once: they wait, their triggerer is
terminated, the next one is killed, and two at once end what is left.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest

from demo.airflow_rest import wait_until

pytestmark = pytest.mark.e2e

WAITS = int(os.environ.get("E2E_WAITS", "50"))
"""Tasks that wait in the story. ``E2E_WAITS=200 make test TESTS=tests/e2e/test_waiting.py`` takes some minutes more."""

PATIENCE = 240.0 + 2 * WAITS
"""Seconds until whatever doesn't happen has failed; on an idle machine it takes a fifth of that."""

SHORTEST_INTERVAL = 54
"""Seconds between two rounds of a poll at the least, where nobody asked for less: a minute, at times a little less."""

FLAGS = [f"flag-{number}" for number in range(WAITS // 2)]
EXPERIMENTS = [f"experiment-{number}" for number in range(WAITS - len(FLAGS))]
END_DATES = 5
"""Different moments at which experiments end."""

IMPORTS = """
import os
from datetime import timedelta
from airflow.sdk import DAG
from airflow_amplitude_experiment.sensors import AmplitudeEndDateSensor, AmplitudeStateSensor

RETRIES = {"retries": 2, "retry_delay": timedelta(seconds=1)}
ON = {"enabled": True}
"""

MANY = f"""{IMPORTS}
with DAG("many_waits", schedule=None, default_args=RETRIES):
    AmplitudeStateSensor.partial(task_id="flags", until=ON).expand(flag_key={FLAGS})
    AmplitudeEndDateSensor.partial(task_id="experiments", recheck=60).expand(experiment_key={EXPERIMENTS})
"""

ENDINGS = f"""{IMPORTS}
with DAG("endings", schedule=None, default_args=RETRIES):
    AmplitudeStateSensor.partial(
        task_id="new_key", until=ON, poke_interval=5, amplitude_conn_id="amplitude_new_key",
    ).expand(flag_key=["a", "b", "c"])
    AmplitudeStateSensor.partial(task_id="patient", until=ON, poke_interval=5).expand(experiment_key=["d", "e"])
    AmplitudeStateSensor(task_id="timeout", flag_key="a", until=ON, timeout=3)
    AmplitudeStateSensor(task_id="soft_fail", flag_key="a", until=ON, timeout=3, soft_fail=True)
    AmplitudeStateSensor(task_id="deadline", flag_key="a", until=ON, deadline="{{{{ dag_run.conf['deadline'] }}}}")
"""

# Queues are for all tasks of an Airflow or for none. Other tests share this one, so only this DAG's task knows of them.
OF_A_QUEUE = f"""{IMPORTS}
os.environ["AIRFLOW__TRIGGERER__QUEUES_ENABLED"] = "True"
with DAG("of_a_queue", schedule=None):
    AmplitudeStateSensor(task_id="wait", flag_key="a", until=ON, poke_interval=2, queue="amplitude")
"""


class Run:
    """One run. What is asked often is read from Airflow's database and the logs on its disk, which costs it nothing."""

    def __init__(self, place, dag_id, conf=None):
        self.place, self.airflow, self.dag_id = place, place.airflow, dag_id
        self.run_id = place.airflow.trigger(dag_id, conf)

    def query(self, sql, *values):
        with closing(sqlite3.connect(f"file:{self.airflow.home}/airflow.db?mode=ro", uri=True)) as database:
            return database.execute(sql, values).fetchall()

    def tasks(self):
        """Return state and number of tries of each task, by its id and map index."""
        sql = "select task_id, map_index, state, try_number from task_instance where dag_id = ? and run_id = ?"
        return {
            (task, index): (state, tries) for task, index, state, tries in self.query(sql, self.dag_id, self.run_id)
        }

    def of(self, task_id):
        """Return what the mapped tasks of an id have come to, each kind once."""
        return {found for (name, _), found in self.tasks().items() if name == task_id}

    def waiting(self):
        return {task for task, (state, _) in self.tasks().items() if state == "deferred"}

    def log_files(self, task):
        task_id, index = task
        folder = self.airflow.home / "logs" / f"dag_id={self.dag_id}" / f"run_id={self.run_id}" / f"task_id={task_id}"
        folder = folder if index < 0 else folder / f"map_index={index}"
        return {path.name: path.read_text() for path in folder.iterdir()}

    def said(self, task):
        """Return what a task itself logged, all tries together."""
        texts = [text for name, text in self.log_files(task).items() if ".trigger." not in name]
        return [json.loads(line)["event"] for text in texts for line in text.splitlines()]

    def log(self, task, number=1):
        return self.log_files(task)[f"attempt={number}.log"]

    def triggerers(self):
        """Return the waits that each triggerer had, the triggerers in their order."""
        found: dict[int, set[tuple[str, int]]] = defaultdict(set)
        for task in self.tasks():
            for name in self.log_files(task):
                if number := re.search(r"\.trigger\.(\d+)\.", name):
                    found[int(number[1])].add(task)
        return [found[number] for number in sorted(found)]

    def ended(self):
        return self.airflow.wait_for_run(self.dag_id, self.run_id, timeout=PATIENCE)["state"]


def until(condition: Callable[[], object], what: str) -> None:
    wait_until(lambda: condition() or None, PATIENCE, f"not so: {what}")


def now():
    return datetime.now(UTC)


def rounds(requests, kind):
    """Return the requests of polls: what a task asks when it starts names a key."""
    return [each for each in requests if f"/{kind}" in each["path"] and "key" not in each["query"]]


def one_plain_triggerer(place):
    """Put back what other tests expect."""
    for name in [name for name in place.airflow.processes if "triggerer" in name]:
        place.airflow.end_component(name, signal.SIGTERM)
    place.airflow.start_component("triggerer")
    place.airflow.wait_until_healthy()


# --- the story ---


class Story:
    """Waits, and four triggerers: one is terminated, one is killed, the last two run at once."""

    def __init__(self, place):
        self.place, self.amplitude, self.airflow = place, place.amplitude, place.airflow
        self.amplitude.options(dates="as_sent")
        for key in FLAGS:
            self.amplitude.add_flag(key, enabled=False)
        for key in EXPERIMENTS:
            self.amplitude.add_experiment(key, enabled=True, endDate=(now() + timedelta(days=9)).isoformat())
        self.ends: dict[str, datetime] = {}
        self.lives: list[float] = []

    def happens(self):
        self.place.add_dag("many_waits", MANY)
        began = now()
        run = self.run = Run(self.place, "many_waits")
        until(lambda: len(run.waiting()) == WAITS, "all wait")
        self.move_end_dates()
        already = len(rounds(self.amplitude.requests(), "flags"))
        self.switch_on(0)
        until(lambda: len(rounds(self.amplitude.requests(), "flags")) > already, "the poll looks")
        began = self.end_triggerer(signal.SIGTERM, began)
        self.switch_on(1)
        self.airflow.start_component("triggerer")
        until(lambda: len(run.waiting()) < self.left, "the next triggerer goes on")
        began = self.end_triggerer(signal.SIGKILL, began)
        self.switch_on(2)
        half = ["--capacity", str(self.left // 2 + 1)]
        self.airflow.start_component("triggerer", options=half)
        self.airflow.start_component("triggerer", alias="second-triggerer", options=half)
        self.state = run.ended()
        self.lives += 2 * [(now() - began).total_seconds()]
        self.requests = self.amplitude.requests()

    def move_end_dates(self):
        first = now() + timedelta(seconds=30)
        for number, key in enumerate(EXPERIMENTS):
            self.ends[key] = first + timedelta(seconds=6 * (number % END_DATES))
            self.amplitude.change(key, endDate=self.ends[key].isoformat())

    def switch_on(self, third):
        for key in FLAGS[third::3]:
            self.amplitude.change(key, enabled=True)

    def end_triggerer(self, how, began):
        """End it in the midst of what it does; return when that was."""
        self.airflow.end_component("triggerer", how)
        self.left = len(self.run.waiting())
        self.lives.append((now() - began).total_seconds())
        return now()


@pytest.fixture(scope="module")
def story(_place):
    _place.amplitude.reset()
    story = Story(_place)
    try:
        story.happens()
    finally:
        one_plain_triggerer(_place)
    return story


def test_every_wait_ends_once_with_its_record_although_triggerers_are_terminated_and_killed(story):
    assert story.state == "success"
    tasks = story.run.tasks()
    assert Counter(tasks.values()) == {("success", 1): WAITS}
    for task_id, index in tasks:
        said = story.run.said((task_id, index))
        record = story.airflow.xcom("many_waits", story.run.run_id, task_id, map_index=index)
        if task_id == "flags":
            assert (record["key"], record["found"]) == (FLAGS[index], {"enabled": True})
            assert [text for text in said if "enabled True" in text] == [
                f"Flag {record['key']} ({record['id']}): enabled True"
            ]
        else:
            assert record["key"] == EXPERIMENTS[index]
            assert datetime.fromisoformat(record["ended_at"]) == story.ends[record["key"]]
            assert datetime.fromisoformat(record["looked_at"]) >= story.ends[record["key"]].replace(microsecond=0)
            assert len([text for text in said if "ended at" in text]) == 1


def test_each_wait_costs_one_read_and_then_a_poll_looks_for_all_of_them(story):
    first_looks = Counter(each["query"]["key"] for each in story.requests if "key" in each["query"])
    assert first_looks == dict.fromkeys((*FLAGS, *EXPERIMENTS), 1)
    looks = sum(1 + life // SHORTEST_INTERVAL for life in story.lives)
    assert len(rounds(story.requests, "flags")) <= looks
    assert len(rounds(story.requests, "experiments")) <= looks + 2 * END_DATES  # two triggerers at the most at each
    assert {each["status"] for each in story.requests} == {200}


def test_two_triggerers_share_the_waits_that_a_killed_one_left(story):
    terminated, killed, *both = story.run.triggerers()
    assert len(terminated) == WAITS
    assert len(killed) > story.left
    assert len(both) == 2
    assert not both[0] & both[1]
    assert len(both[0] | both[1]) == story.left


# --- how waits end that do not come true ---


class Endings:
    """A key that is replaced, a server in trouble, and time that is up, in one run."""

    def __init__(self, place):
        self.place, self.amplitude, self.airflow = place, place.amplitude, place.airflow
        for key in "abc":
            self.amplitude.add_flag(key, enabled=False)
        for key in "de":
            self.amplitude.add_experiment(key, enabled=False)
        self.connection = {"connection_id": "amplitude_new_key", **json.loads(self.amplitude.airflow_connection())}
        self.connection["extra"] = json.dumps(self.connection["extra"])

    def happen(self):
        self.airflow.request("POST", "/connections", json=self.connection)
        try:
            self.place.add_dag("endings", ENDINGS)
            run = self.run = Run(self.place, "endings", {"deadline": (now() + timedelta(seconds=20)).isoformat()})
            mapped = {("new_key", 0), ("new_key", 1), ("new_key", 2), ("patient", 0), ("patient", 1)}
            until(lambda: run.waiting() >= mapped, "all wait")
            self.airflow.request(
                "PATCH",
                "/connections/amplitude_new_key",
                params={"update_mask": "password"},
                json={**self.connection, "password": "mgmt-a-key-that-nobody-knows"},
            )
            self.amplitude.fault("status", path="*/experiments*", times=4, status=503)
            self.amplitude.fault("rate_limit", path="*/experiments*", times=2, retry_after=1)
            for key in "de":
                self.amplitude.change(key, enabled=True)
            run.ended()
            self.requests = self.amplitude.requests()
            self.airflow.clear("endings", run.run_id, ["deadline"])
            run.ended()
        finally:
            self.airflow.request("DELETE", "/connections/amplitude_new_key")


@pytest.fixture(scope="module")
def endings(_place):
    _place.amplitude.reset()
    endings = Endings(_place)
    endings.happen()
    return endings


def test_a_key_that_is_no_longer_right_ends_all_waits_of_its_connection_and_uses_no_retry(endings):
    assert endings.run.of("new_key") == {("failed", 1)}
    assert [each["status"] for each in endings.requests].count(401) == 1
    for index in range(3):
        log = endings.run.log(("new_key", index))
        assert "AmplitudeAuthError" in log
        assert "AirflowFailException" in log


def test_a_server_in_trouble_ends_no_wait(endings):
    assert endings.run.of("patient") == {("success", 1)}
    statuses = Counter(each["status"] for each in endings.requests)
    assert (statuses[503], statuses[429]) == (4, 2)


def test_timeout_and_soft_fail_are_those_of_airflows_own_sensors(endings):
    assert endings.run.of("timeout") == {("failed", 1)}
    assert endings.run.of("soft_fail") == {("skipped", 1)}
    assert "AirflowSensorTimeout" in endings.run.log(("timeout", -1))


def test_a_deadline_ends_the_wait_and_another_try_at_once(endings):
    assert endings.run.of("deadline") == {("failed", 2)}
    assert "AirflowSensorTimeout" in endings.run.log(("deadline", -1))
    again = endings.run.log(("deadline", -1), 2)
    assert "the deadline was" in again
    assert "Pausing task" not in again


# --- queues ---


def test_the_wait_of_a_task_with_a_queue_ends_on_a_triggerer_of_that_queue(place):
    pytest.importorskip("airflow.triggers.shared_stream", reason="triggerers have no queues here")
    place.amplitude.add_flag("a", enabled=False)
    place.add_dag("of_a_queue", OF_A_QUEUE)
    run = Run(place, "of_a_queue")
    until(run.waiting, "it waits")
    of_the_task = "select trigger.queue, triggerer_id from trigger join task_instance t on t.trigger_id = trigger.id"
    assert run.query(f"{of_the_task} where t.dag_id = 'of_a_queue'") == [("amplitude", None)]
    place.amplitude.change("a", enabled=True)
    place.airflow.start_component(
        "triggerer",
        alias="queue-triggerer",
        options=["--queues", "amplitude"],
        environment={"AIRFLOW__TRIGGERER__QUEUES_ENABLED": "True"},
    )
    try:
        assert run.ended() == "success"
    finally:
        place.airflow.end_component("queue-triggerer", signal.SIGTERM)
