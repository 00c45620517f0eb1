"""Edits in Amplitude that start a DAG: the example that tells a channel, past a triggerer's death and a pause.

The example runs as it stands, but that it looks every ten seconds and knows the name that our own key writes under.
"""

from __future__ import annotations

import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from html import unescape
from typing import Any

import pytest

from demo.airflow_rest import wait_until
from tests.e2e.conftest import EXAMPLES

pytestmark = pytest.mark.e2e

DAG_ID = "tell_soon"
OURS, ANN = "airflow@example.com", "ann@example.com"
QUICKER = {
    '"tell_who_changed_what"': f'"{DAG_ID}"',
    '"amplitude_changes"': '"amplitude_changes_soon"',
    "ignore_modified_by=[]": f'interval=10, ignore_modified_by=["{OURS}"]',
}
PATIENCE = 90.0
"""Seconds for what takes twenty to thirty on an idle machine: a look, Airflow's own rounds and two tasks."""


class Watching:
    """The example at work in a place, and what the channel has heard."""

    def __init__(self, place: Any) -> None:
        self.place = place

    def start(self) -> None:
        text = (EXAMPLES / "tell_who_changed_what.py").read_text()
        for found, quicker in QUICKER.items():
            assert found in text
            text = text.replace(found, quicker)
        self.place.add_dag(DAG_ID, text)
        self.wait_for_triggers(1)

    def wait_for_triggers(self, count: int) -> None:
        """Parse the DAG file again, which is when Airflow looks at what is paused, and wait for its watcher."""
        (self.place.dags / f"{DAG_ID}.py").touch()
        wait_until(lambda: self._triggers() == count or None, PATIENCE, f"there were not {count} triggers of changes")

    def _triggers(self) -> int:
        with closing(sqlite3.connect(self.place.airflow.home / "airflow.db", timeout=60)) as database:
            found = database.execute("SELECT count(*) FROM trigger WHERE classpath LIKE '%AmplitudeChangeTrigger'")
            return int(found.fetchone()[0])

    def change(self, key: str, *, by: str = ANN, **fields: Any) -> None:
        """Change a flag as a person would in the app."""
        self.place.amplitude.change(key, by=by, **fields)

    def pause(self) -> None:
        self.place.airflow.request("PATCH", f"/dags/{DAG_ID}", json={"is_paused": True})
        self.wait_for_triggers(0)

    def unpause(self) -> None:
        self.place.airflow.unpause(DAG_ID)
        self.wait_for_triggers(1)

    def told(self, key: str) -> str:
        """Return all that the channel heard of a flag, as a person reads it."""
        messages = (str(message.get("text", "")) for message in self.place.slack.messages)
        return "\n".join(unescape(line) for text in messages for line in text.splitlines() if f"flag {key}:" in line)

    def hears(self, key: str, what: str) -> str:
        """Wait until the channel hears so much of a flag, and return all of it."""

        def look() -> str | None:
            self.place.airflow.check()
            return told if what in (told := self.told(key)) else None

        return wait_until(look, PATIENCE, f"the channel did not hear {what!r} of {key}")


@pytest.fixture(scope="module")
def watching(_place: Any) -> Iterator[Watching]:
    _place.amplitude.reset()
    for key in ("edited", "ours", "paused", "edited-meanwhile"):
        _place.amplitude.add_flag(key, enabled=True, rolloutPercentage=10)
    found = Watching(_place)
    found.start()
    yield found
    found.pause()


def test_an_edit_in_the_app_is_told_with_what_and_who_and_our_own_are_not(watching):
    watching.change("ours", by=OURS, rollout_percentage=20)
    watching.change("edited", rollout_percentage=25)
    told = watching.hears("edited", "rollout percentage 10 -> 25")
    assert f"version 1 -> 2, by {ANN}" in told
    assert "10 -> 20" not in watching.told("ours")


def test_an_edit_while_the_triggerer_is_dead_is_told_when_it_is_back(watching):
    watching.place.airflow.end_component("triggerer", signal.SIGKILL)
    watching.change("edited-meanwhile", rollout_percentage=40)
    watching.place.airflow.start_component("triggerer")
    assert ANN in watching.hears("edited-meanwhile", "rollout percentage 10 -> 40")


def test_edits_of_a_pause_are_told_when_it_is_over(watching):
    watching.pause()
    watching.change("paused", enabled=False)
    watching.unpause()
    assert ANN in watching.hears("paused", "enabled on -> off")
