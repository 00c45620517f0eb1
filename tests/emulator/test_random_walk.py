"""Random sequences of requests: nothing breaks, and what must hold after every single one does."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
import yaml

from airflow_amplitude_experiment.emulator import Emulator

REFERENCE = Path(__file__).parent.parent / "reference" / "management-api.yaml"
COMPONENTS = yaml.safe_load(REFERENCE.read_text(encoding="utf-8"))["components"]
SHAPES = {"flags": "FlagList", "experiments": "ExperimentList", "mutexes": "MutexList", "holdouts": "HoldoutList"}
KEYS = ("a", "b", "c/d", "é")


class Walk:
    """Makes one request after another, most of them sensible."""

    def __init__(self, seed: int, api: httpx.Client) -> None:
        self.random = random.Random(seed)
        self.api = api

    def step(self) -> httpx.Response:
        method, path, body = self.random.choice(
            [self.create, self.patch, self.patch, self.variant, self.users, self.deployments, self.group, self.slot]
        )()
        return self.api.request(method, f"/api/1/{path}", json=body)

    def pick(self, *choices: Any) -> Any:
        return self.random.choice(choices)

    def thing(self) -> str:
        kind = self.pick("flags", "experiments")
        found = self.api.get(f"/api/1/{kind}?includeArchived=true").json()[kind]
        return f"{kind}/{self.pick(*[one['id'] for one in found], '4711')}"

    def ids(self, kind: str) -> list[str]:
        return [one["id"] for one in self.api.get(f"/api/1/{kind}").json()[kind]]

    def create(self) -> tuple[str, str, Any]:
        kind = self.pick("flags", "experiments")
        key = f"key-{self.random.randrange(12)}"
        return "POST", kind, {"projectId": self.pick("100001", "9"), "key": key, "deployments": ["31"]}

    def patch(self) -> tuple[str, str, Any]:
        segment = {"name": "S", "conditions": [], "percentage": self.pick(0, 50), "rolloutWeights": {"a": 1}}
        fields = {
            "enabled": self.pick(True, False),
            "rolloutPercentage": self.pick(0, 10, 12.5, 100, 101),
            "archive": self.pick(False, False, True),
            "targetSegments": self.pick([], [segment]),
            "name": self.pick("x", "y"),
            "tags": self.pick([], ["t"]),
            "endDate": self.pick(None, "2026-02-01"),
        }
        names = self.random.sample(sorted(fields), self.random.randrange(3))
        return "PATCH", self.thing(), {name: fields[name] for name in names}

    def variant(self) -> tuple[str, str, Any]:
        path = f"{self.thing()}/variants"
        one = f"{path}/{httpx.QueryParams({'k': self.pick(*KEYS)}).__str__()[2:]}"
        body = {"key": self.pick(*KEYS), "rolloutWeight": self.pick(0, 1, 3)}
        change = {"rolloutWeight": self.pick(0, 2), "payload": self.pick(None, {"x": 1})}
        return self.pick(("POST", path, body), ("PATCH", one, self.pick(change, body)), ("DELETE", one, None))

    def users(self) -> tuple[str, str, Any]:
        path = f"{self.thing()}/variants/{self.pick('on', 'control', 'a')}"
        ids = [f"u{self.random.randrange(9)}" for _ in range(self.random.randrange(4))]
        side = self.pick("users", "cohorts")
        return self.pick(
            ("POST", f"{path}/{side}", {"inclusions": ids}),
            ("DELETE", f"{path}/bulk-delete-{side}", {"users": ids}),
            ("DELETE", f"{path}/users/{self.random.randrange(3)}", None),
            ("DELETE", f"{path}/users", None),
        )

    def deployments(self) -> tuple[str, str, Any]:
        path = f"{self.thing()}/deployments"
        return self.pick(("POST", path, {"deployments": [self.pick("31", "99")]}), ("DELETE", f"{path}/31", None))

    def group(self) -> tuple[str, str, Any]:
        members = self.random.sample(self.ids("experiments"), k=min(1, len(self.ids("experiments"))))
        name = {"projectId": 100001, "name": "G"}
        slots = [{"percentage": self.pick(40, 50), "experiments": members}, {"percentage": 50}]
        archived = (
            f"{self.pick('mutexes', 'holdouts')}/{self.pick(*self.ids('mutexes'), *self.ids('holdouts'), '4711')}"
        )
        return self.pick(
            ("POST", "mutexes", {**name, "slots": slots}),
            ("POST", "holdouts", {**name, "holdoutPercentage": 5, "experiments": members}),
            ("PATCH", archived, {"archive": self.pick(True, False)}),
        )

    def slot(self) -> tuple[str, str, Any]:
        mutex = self.pick(*self.ids("mutexes"), "4711")
        body = {"experiments": self.ids("experiments")[:2], "individuals": ["u1"]}
        return "PATCH", f"mutexes/{mutex}/slots/{self.random.randrange(4)}", body


def histories(state: dict[str, Any]) -> dict[str, tuple[int, dict[str, Any]]]:
    """Return each object's number of versions, and the object itself."""
    things = [*state["flags"], *state["experiments"]]
    return {one["id"]: (len(one["versions"]), {**one, "versions": 0}) for one in things}


@pytest.mark.parametrize("seed", range(4))
def test_whatever_is_asked(seed: int, emulator: Emulator, api: httpx.Client) -> None:
    walk = Walk(seed, api)
    statuses = set()
    for _ in range(150):
        before, whole = histories(emulator.state()), emulator.state()
        answer = walk.step()
        statuses.add(answer.status_code)
        assert answer.status_code in (200, 400, 403, 404)
        if answer.status_code != 200:
            assert emulator.state()["flags"] == whole["flags"]
        for number, (versions, thing) in histories(emulator.state()).items():
            earlier, then = before.get(number, (0, None))
            assert versions - earlier == (thing != then), "a version for every change, and for nothing else"
    assert {200, 400, 403, 404} == statuses
    for kind, shape in SHAPES.items():
        listed = api.get(f"/api/1/{kind}?limit=1000").json()
        jsonschema.validate(listed, {"$ref": f"#/components/schemas/{shape}", "components": COMPONENTS})
    saved = emulator.state(keys=True)
    configs = emulator_configs(emulator)
    emulator.load_state(saved)
    assert emulator.state(keys=True) == saved
    assert emulator_configs(emulator) == configs


def emulator_configs(emulator: Emulator) -> list[dict[str, Any]]:
    key = {"Authorization": f"Api-Key {emulator.deployment_key}"}
    found: list[dict[str, Any]] = httpx.get(f"{emulator.url}/sdk/v2/flags", headers=key).json()
    return sorted(found, key=lambda one: one["key"])
