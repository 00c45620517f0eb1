"""Amplitude's own SDK evaluates what the emulator serves: 10,000 users see the state as it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from amplitude_experiment import User
from amplitude_experiment.local.client import LocalEvaluationClient
from amplitude_experiment.local.config import LocalEvaluationConfig

from airflow_amplitude_experiment.emulator import Emulator

# The SDK's own libraries warn of their own age.
pytestmark = pytest.mark.filterwarnings("ignore")
USERS = [f"user-{number}" for number in range(10_000)]


@contextmanager
def sdk(emulator: Emulator) -> Iterator[LocalEvaluationClient]:
    # Built directly: Experiment.initialize_local keeps one client per key for the life of the process.
    config = LocalEvaluationConfig(server_url=emulator.url)
    client = LocalEvaluationClient(emulator.deployment_key, config)
    client.start()
    try:
        yield client
    finally:
        client.stop()


def variant(client: LocalEvaluationClient, key: str, **user: Any) -> str:
    result = client.evaluate_v2(User(**user), {key})[key]
    assert bool((result.metadata or {}).get("default")) == (result.key == "off")
    return str(result.key)


def variants(emulator: Emulator, key: str, users: list[str] = USERS) -> dict[str, str]:
    with sdk(emulator) as client:
        return {user: variant(client, key, user_id=user) for user in users}


def share(seen: dict[str, str], *keys: str) -> float:
    return 100 * sum(one in keys for one in seen.values()) / len(seen)


def test_a_ramp_measures_as_asked_and_keeps_everybody_in(emulator: Emulator) -> None:
    emulator.add_flag("nav", enabled=True)
    inside: set[str] = set()
    for percentage in (0, 10, 50, 100):
        emulator.change("nav", rollout_percentage=percentage)
        seen = variants(emulator, "nav")
        assert share(seen, "on") == pytest.approx(percentage, abs=1.5)
        now = {user for user, one in seen.items() if one == "on"}
        assert inside <= now
        inside = now
    assert len(inside) == 10_000


def test_a_fraction_lets_the_next_bucket_in(emulator: Emulator) -> None:
    emulator.add_flag("nav", enabled=True, rollout_percentage=12.5)
    at_12_5 = variants(emulator, "nav", USERS[:2000])
    emulator.change("nav", rollout_percentage=13)
    assert variants(emulator, "nav", USERS[:2000]) == at_12_5


def test_weights_split_whoever_is_in_and_a_ramp_moves_nobody(emulator: Emulator) -> None:
    split = {"control": 1, "treatment": 3}
    variants_of = [{"key": "control"}, {"key": "treatment", "payload": {"copy": "B"}}]
    emulator.add_experiment(
        "checkout", variants=variants_of, rollout_weights=split, enabled=True, rollout_percentage=40
    )
    before = variants(emulator, "checkout")
    assert share(before, "control") == pytest.approx(10, abs=1.5)
    assert share(before, "treatment") == pytest.approx(30, abs=1.5)
    emulator.change("checkout", rollout_percentage=80)
    after = variants(emulator, "checkout")
    assert all(after[user] == one for user, one in before.items() if one != "off")
    with sdk(emulator) as client:
        user = next(user for user, one in after.items() if one == "treatment")
        result = client.evaluate_v2(User(user_id=user))["checkout"]
        assert result.payload == {"copy": "B"}
        assert result.metadata["segmentName"] == "All Other Users"


def test_a_weight_of_zero_is_nobody(emulator: Emulator) -> None:
    emulator.add_experiment("checkout", enabled=True, rollout_percentage=100, rollout_weights={"treatment": 1})
    assert set(variants(emulator, "checkout", USERS[:500]).values()) == {"treatment"}
    emulator.change("checkout", rollout_weights={"control": 0, "treatment": 0})
    assert set(variants(emulator, "checkout", USERS[:500]).values()) == {"off"}


def segment(conditions: list[dict[str, Any]], percentage: int = 100, **more: Any) -> dict[str, Any]:
    return {
        "name": "Some",
        "conditions": conditions,
        "percentage": percentage,
        "rolloutWeights": {"on": 1},
        **more,
    }


def condition(op: str, *values: str, prop: str = "gp:plan") -> dict[str, Any]:
    return {"type": "property", "prop": prop, "op": op, "values": list(values)}


@pytest.mark.parametrize(
    ("op", "values", "matching", "other"),
    [
        ("is", ["pro"], "pro", "free"),
        ("is not", ["pro"], "free", "pro"),
        ("contains", ["ro"], "pro", "free"),
        ("does not contain", ["ro"], "free", "pro"),
        ("less", ["10"], 9, 10),
        ("less or equal", ["10"], 10, 11),
        ("greater", ["10"], 11, 10),
        ("greater or equal", ["10"], 10, 9),
        ("set is", ["a", "b"], ["b", "a"], ["a"]),
        ("set is not", ["a", "b"], ["a"], ["a", "b"]),
        ("set contains", ["a", "b"], ["a", "b", "c"], ["a", "c"]),
        ("set does not contain", ["a", "b"], ["a", "c"], ["a", "b", "c"]),
        ("glob match", ["*@acme.co?"], "x@acme.com", "x@acme.com.evil"),
        ("glob match", ["a.b (c) [d] x+y"], "a.b (c) [d] x+y", "aXb (c) d xxy"),
        ("glob does not match", ["*@acme.*"], "x@other.com", "x@acme.com"),
    ],
)
def test_each_operator_of_a_segment(
    op: str, values: list[str], matching: Any, other: Any, emulator: Emulator, api: httpx.Client
) -> None:
    flag = emulator.add_flag("nav", enabled=True)
    body = {"targetSegments": [segment([condition(op, *values)])]}
    assert api.patch(f"/api/1/flags/{flag['id']}", json=body).status_code == 200
    with sdk(emulator) as client:
        assert variant(client, "nav", user_id="u", user_properties={"plan": matching}) == "on"
        assert variant(client, "nav", user_id="u", user_properties={"plan": other}) == "off"


def test_segments_are_tried_in_order_and_the_first_match_decides(emulator: Emulator) -> None:
    germans = condition("is", "Germany", prop="country")
    segments = [segment([germans, condition("is", "pro")], 0), segment([germans], 100)]
    emulator.add_flag("nav", enabled=True, rollout_percentage=0, target_segments=segments)
    with sdk(emulator) as client:
        assert variant(client, "nav", user_id="u", country="Germany") == "on"
        assert variant(client, "nav", user_id="u", country="Germany", user_properties={"plan": "pro"}) == "off"
        assert variant(client, "nav", user_id="u", country="France") == "off"


def test_a_segment_without_conditions_takes_everybody(emulator: Emulator) -> None:
    emulator.add_flag("nav", enabled=True, rollout_percentage=100, target_segments=[segment([], 10)])
    seen = variants(emulator, "nav")
    assert share(seen, "on") == pytest.approx(10, abs=1.5)


def test_a_segment_may_have_its_own_bucketing_key(emulator: Emulator) -> None:
    emulator.add_flag("nav", enabled=True, target_segments=[segment([], 100, bucketingKey="device_id")])
    with sdk(emulator) as client:
        assert variant(client, "nav", user_id="u") == "off"
        assert variant(client, "nav", device_id="d") == "on"


def test_cohort_conditions_and_unknown_ones_of_seeds(emulator: Emulator) -> None:
    cohort = {"type": "cohort", "values": ["c1"]}
    emulator.add_flag("a", enabled=True, target_segments=[segment([cohort])])
    emulator.add_flag("b", enabled=True, target_segments=[segment([{"type": "weather"}])])
    with sdk(emulator) as client:
        assert variant(client, "a", user_id="u", cohort_ids=["c1"]) == "on"
        assert variant(client, "a", user_id="u") == "off"
        assert variant(client, "b", user_id="u") == "off"


def test_inclusions_come_before_percentages(emulator: Emulator) -> None:
    included = [{"key": "control", "users": ["qa", "both"]}, {"key": "treatment", "users": ["device", "both"]}]
    included[1]["cohorts"] = ["c1"]
    emulator.add_experiment("checkout", variants=included, enabled=True)
    with sdk(emulator) as client:
        assert variant(client, "checkout", user_id="qa") == "control"
        assert variant(client, "checkout", user_id="x", device_id="device") == "treatment"
        assert variant(client, "checkout", user_id="both") == "control"
        assert variant(client, "checkout", user_id="x", cohort_ids=["c1"]) == "treatment"
        assert variant(client, "checkout", user_id="somebody") == "off"
    emulator.change("checkout", enabled=False)
    with sdk(emulator) as client:
        assert variant(client, "checkout", user_id="qa") == "off"


def test_a_mutex_lets_each_user_into_one_member(emulator: Emulator) -> None:
    for key in ("first", "second"):
        emulator.add_experiment(key, enabled=True, rollout_percentage=100)
    slots = [
        {"percentage": 30, "experiments": ["first"], "individuals": ["qa"]},
        {"percentage": 50, "experiments": ["second"]},
        {"percentage": 20, "experiments": ["first"]},
    ]
    emulator.add_mutex("one-of", slots=slots)
    with sdk(emulator) as client:
        results = [client.evaluate_v2(User(user_id=user)) for user in USERS]
        assert variant(client, "first", user_id="qa") in ("control", "treatment")
    seen = Counter((one["first"].key == "off", one["second"].key == "off") for one in results)
    assert (False, False) not in seen
    assert (True, True) not in seen
    assert seen[False, True] == pytest.approx(5000, abs=200)
    assert results[0]["one-of"].metadata["deployed"] is False
    assert results[0]["one-of"].metadata["flagType"] == "mutual-exclusion-group"


def test_a_holdout_withholds_its_share_even_from_the_included(emulator: Emulator) -> None:
    included = [{"key": "control"}, {"key": "treatment", "users": ["held", "free"]}]
    emulator.add_experiment("checkout", variants=included, enabled=True, rollout_percentage=100)
    held = emulator.add_holdout(
        "held-out",
        holdout_percentage=20,
        experiments=["checkout"],
        individual_inclusion=["held", "twice"],
        individual_exclusion=["free", "twice"],
    )
    seen = variants(emulator, "checkout", [*USERS, "held", "free", "twice"])
    assert share(seen, "off") == pytest.approx(20, abs=1.5)
    assert (seen["held"], seen["free"], seen["twice"]) == ("off", "treatment", "off")
    key = {"Authorization": f"Bearer {emulator.management_key}"}
    httpx.patch(f"{emulator.url}/api/1/holdouts/{held['id']}", json={"archive": True}, headers=key)
    assert share(variants(emulator, "checkout", USERS[:1000]), "off") == 0


def test_a_holdout_in_a_slot_depends_on_that_slot(emulator: Emulator) -> None:
    emulator.add_experiment("checkout", enabled=True, rollout_percentage=100)
    emulator.add_holdout("held-out", holdout_percentage=50, experiments=["checkout"])
    emulator.add_mutex("one-of", slots=[{"percentage": 50, "holdouts": ["held-out"]}, {"percentage": 50}])
    assert share(variants(emulator, "checkout"), "off") == pytest.approx(75, abs=1.5)


def test_prerequisites_gate_and_come_along_undeployed(emulator: Emulator) -> None:
    emulator.add_flag("base", enabled=True, rollout_percentage=100, deployments=[])
    emulator.add_flag("nav", enabled=True, rollout_percentage=100, prerequisites={"base": ["on"]})
    assert share(variants(emulator, "nav", USERS[:200]), "on") == 100
    emulator.change("base", enabled=False)
    assert share(variants(emulator, "nav", USERS[:200]), "on") == 0
    with sdk(emulator) as client:
        assert client.evaluate_v2(User(user_id="u"))["base"].metadata["deployed"] is False


def test_group_bucketing_and_property_bucketing(emulator: Emulator) -> None:
    emulator.add_flag("by-org", enabled=True, rollout_percentage=50, bucketing_unit="org id")
    emulator.add_flag("by-plan", enabled=True, rollout_percentage=100, bucketing_key="gp:plan")
    emulator.add_flag("by-amplitude", enabled=True, rollout_percentage=100, bucketing_key="amplitude_id")
    with sdk(emulator) as client:
        orgs = [
            {variant(client, "by-org", user_id=f"u{number}", groups={"org id": [f"org-{org}"]}) for number in range(3)}
            for org in range(400)
        ]
        assert all(len(org) == 1 for org in orgs)
        assert sum(org == {"on"} for org in orgs) == pytest.approx(200, abs=40)
        assert variant(client, "by-org", user_id="u") == "off"
        assert variant(client, "by-plan", user_id="u", user_properties={"plan": "pro"}) == "on"
        assert variant(client, "by-plan", user_id="u") == "off"
        assert variant(client, "by-amplitude", user_id="u") == "off"


def test_what_a_deployment_is_served(emulator: Emulator, api: httpx.Client) -> None:
    emulator.seed({"deployments": [{"id": "32", "label": "web", "type": "client", "key": "client-web"}]})
    emulator.add_flag("everywhere", enabled=True, deployments=["31", "web"])
    emulator.add_flag("web-only", enabled=True, deployments=["web"])
    gone = emulator.add_flag("gone", enabled=True)
    api.patch(f"/api/1/flags/{gone['id']}", json={"archive": True})

    def served(key: str) -> set[str]:
        answer = httpx.get(f"{emulator.url}/sdk/v2/flags?v=0", headers={"Authorization": f"Api-Key {key}"})
        return {one["key"] for one in answer.json()} if answer.status_code == 200 else {str(answer.status_code)}

    assert served(emulator.deployment_key) == {"everywhere"}
    assert served("client-web") == {"everywhere", "web-only"}
    assert served("another") == {"401"}
    assert served(emulator.management_key) == {"401"}
    assert httpx.get(f"{emulator.url}/sdk/v2/flags").status_code == 401
    api.patch("/api/1/deployments/32", json={"archive": True})
    assert served("client-web") == {"401"}


def test_remote_flags_are_evaluated_or_stubs(emulator: Emulator) -> None:
    emulator.add_flag("nav", enabled=True, rollout_percentage=100, evaluation_mode="remote")
    assert share(variants(emulator, "nav", USERS[:100]), "on") == 100
    emulator.options(remote_flags="stub")
    assert share(variants(emulator, "nav", USERS[:100]), "on") == 0


def test_a_variant_called_off_stays_the_default(emulator: Emulator) -> None:
    emulator.add_flag("nav", variants=["on", "off"], rollout_weights={"on": 1, "off": 1}, enabled=True)
    emulator.change("nav", rollout_percentage=100)
    assert share(variants(emulator, "nav", USERS[:2000]), "on") == pytest.approx(50, abs=4)


def test_the_documented_hash_vectors_decide(emulator: Emulator) -> None:
    # salt/user-1 has allocation 38 and distribution 20456005, salt/user-2 has 83 and 40341858.
    emulator.add_experiment("checkout", bucketing_salt="salt", enabled=True)
    for percentage, expected in ((38, ("off", "off")), (39, ("control", "off")), (84, ("control", "treatment"))):
        emulator.change("checkout", rollout_percentage=percentage)
        seen = variants(emulator, "checkout", ["user-1", "user-2"])
        assert (seen["user-1"], seen["user-2"]) == expected
