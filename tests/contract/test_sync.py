"""A sync over real sockets: whatever happens on the way, the variant ends with exactly those who were wanted.

Any sets before and after, any place for a crash or a lost answer, any characters in an id; and Amplitude's own SDK
gives each of them the variant.
"""

from __future__ import annotations

from contextlib import contextmanager
from math import ceil
from random import Random

import pytest
from amplitude_experiment import User
from amplitude_experiment.local.client import LocalEvaluationClient
from amplitude_experiment.local.config import LocalEvaluationConfig
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from airflow_amplitude_experiment.hooks.guard import GuardedClient
from airflow_amplitude_experiment.operators import (
    AmplitudeSyncVariantCohortsOperator,
    AmplitudeSyncVariantUsersOperator,
    _edit,
)
from tests.builders import a_context

OPERATORS = {"users": AmplitudeSyncVariantUsersOperator, "cohorts": AmplitudeSyncVariantCohortsOperator}
MODES = ["replace", "add", "remove"]
VARIANTS = ["on", "b", "c"]
ODD_IDS = [
    "a,b",
    "a;b",
    "it's",
    '"quoted"',
    "back\\slash",
    "two\nlines",
    "tab\there",
    "carriage\r\nreturn",
    "two  spaces",
    "\U0001f9d1‍\U0001f680",
    "ünï-日本語",
    "\u00e9",
    "e\u0301",
    "null",
    "[]",
    '{"a": 1}',
    "{{ not_rendered }}",
    "%2F/../?#&=+",
    "007",
    "1.0",
    "1e5",
    "x" * 1000,
    "\U0001f600" * 1000,
    "<script>",
    "\x7f",
]


@pytest.fixture
def amplitude(emulator, monkeypatch):
    monkeypatch.setattr(_edit, "SECONDS_BEFORE_ANOTHER_LOOK", 0.0)
    connection = emulator.airflow_connection(requests_per_second=100_000)
    monkeypatch.setenv("AIRFLOW_CONN_AMPLITUDE_EXPERIMENT_DEFAULT", connection)
    return emulator


def sync(side, ids, **options):
    options = {"flag_key": "nav", "variant": "on", "mode": "replace", **options}
    operator = OPERATORS[side](task_id="sync", **{side: "{{ ids }}"}, **options)
    setattr(operator, side, ids)
    return operator.execute(a_context())


def included(emulator, side="users"):
    return emulator.flag("nav")["variants"][0][side]


def writes(emulator):
    return [request for request in emulator.requests() if request["method"] != "GET"]


def budget(to_add, to_remove):
    """Return what design §6 allows for a sync by key."""
    chunks = ceil(to_add / 100) + ceil(to_remove / 100)
    return 1 + len(VARIANTS) + (chunks + 1 if chunks else 0)


class Crash(BaseException):
    """The worker is gone: no ``except`` of ours sees it."""


@contextmanager
def crashing(monkeypatch, at, *, after):
    """Let the process die at its write number ``at``, before it is sent or once it is answered."""
    original, seen = GuardedClient.send, []

    def send(self, call, **options):
        if not call.writes:
            return original(self, call, **options)
        seen.append(call)
        if len(seen) == at + 1 and not after:
            raise Crash
        answer = original(self, call, **options)
        if len(seen) == at + 1:
            raise Crash
        return answer

    with monkeypatch.context() as patch:
        patch.setattr(GuardedClient, "send", send)
        yield


sizes = st.integers(0, 230)
TROUBLE = ["crash before", "crash after", "cut_before", "cut_after", "refuse", "truncated", "500", "503 after", "429"]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    side=st.sampled_from(["users", "cohorts"]),
    mode=st.sampled_from(MODES),
    stay=sizes,
    go=sizes,
    come=sizes,
    testers=st.integers(0, 3),
    trouble=st.sampled_from(TROUBLE),
    at=st.integers(0, 5),
    seed=st.integers(0, 9),
)
@example("users", "replace", 20, 150, 230, 2, "cut_after", 3, 0)
@example("users", "replace", 20, 150, 230, 2, "cut_before", 3, 0)
@example("users", "replace", 0, 230, 230, 0, "crash after", 1, 0)
@example("users", "add", 0, 0, 230, 0, "crash before", 1, 0)
@example("cohorts", "remove", 230, 0, 0, 1, "503 after", 0, 0)
def test_whatever_breaks_on_the_way_the_variant_ends_as_wanted_within_the_budget(
    amplitude, monkeypatch, side, mode, stay, go, come, testers, trouble, at, seed
):
    before, source, keep, wanted = arranged(mode, stay, go, come, testers, Random(seed))
    amplitude.reset()
    amplitude.options(requests_per_second=None, requests_per_day=None)
    amplitude.add_flag("nav", variants=[{"key": "on", side: before}, "b", "c"])
    allowed = budget(len(wanted - set(before)), len(set(before) - wanted))

    if trouble.startswith("crash"):
        with crashing(monkeypatch, at, after=trouble == "crash after"):
            try:
                sync(side, source, mode=mode, keep=keep)
            except Crash:
                now = set(included(amplitude, side))
                allowed = budget(len(wanted - now), len(now - wanted))
                assert not (set(before) & wanted) - now
                amplitude.clear_requests()
        if set(included(amplitude, side)) != wanted:
            sync(side, source, mode=mode, keep=keep)
    else:
        goes_wrong(amplitude, trouble, at)
        sync(side, source, mode=mode, keep=keep)
        allowed += 2 * (2 - len(amplitude.world.faults.waiting()))  # each costs the request again, and a read

    assert set(included(amplitude, side)) == wanted
    assert len(included(amplitude, side)) == len(wanted)
    assert len(amplitude.requests()) <= allowed
    amplitude.clear_faults()
    amplitude.clear_requests()
    assert sync(side, source, mode=mode, keep=keep)["written"] is False
    assert len(amplitude.requests()) <= budget(0, 0)


def arranged(mode, stay, go, come, testers, random):
    """Return who is there, the source, the testers to keep, and who is wanted in the end."""
    staying, going, coming = (
        [f"{part}-{each}" for each in range(n)] for part, n in zip("sgc", (stay, go, come), strict=True)
    )
    before, source = [*staying, *going], [*staying, *coming]
    random.shuffle(before)
    random.shuffle(source)
    keep = random.sample(before, min(testers, len(before)))
    wanted = {
        "replace": {*source, *keep},
        "add": {*before, *source},
        "remove": set(before) - (set(source) - set(keep)),
    }[mode]
    source = source or ["nobody-there"]
    if stay + come == 0 and mode != "remove":
        wanted |= set(source)
    return before, source, keep, wanted


def goes_wrong(emulator, trouble, at):
    paths = {"path": "*/on/*", "skip": at}
    for method in ("POST", "DELETE"):
        if trouble[0].isdigit() and trouble != "429":
            after = trouble.endswith("after")
            emulator.fault("status", status=int(trouble[:3]), after=after, method=method, **paths)
        elif trouble == "429":
            emulator.fault("rate_limit", retry_after=0.001, method=method, **paths)
        else:
            emulator.fault(trouble, method=method, **paths)


@pytest.mark.parametrize(("add", "remove"), [(0, 0), (1, 0), (0, 1), (100, 100), (101, 99), (250, 201)])
def test_it_costs_exactly_the_budget(amplitude, add, remove):
    before = [f"old-{each}" for each in range(remove)]
    amplitude.add_flag("nav", variants=[{"key": "on", "users": ["stays", *before]}, "b", "c"])
    amplitude.clear_requests()
    sync("users", ["stays", *(f"new-{each}" for each in range(add))])
    assert len(amplitude.requests()) == budget(add, remove)


@pytest.mark.parametrize("side", ["users", "cohorts"])
def test_odd_ids_come_and_go_as_they_are(amplitude, side):
    amplitude.add_flag("nav", variants=["on", "b"])
    sync(side, ODD_IDS)
    assert included(amplitude, side) == ODD_IDS
    amplitude.clear_requests()
    assert sync(side, ODD_IDS)["written"] is False
    assert not writes(amplitude)
    sync(side, ODD_IDS[::2], mode="remove")
    assert included(amplitude, side) == ODD_IDS[1::2]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ids=st.lists(st.text(min_size=1, max_size=40).map(str.strip).filter(bool), min_size=1, max_size=20, unique=True))
def test_any_text_that_can_be_sent_is_an_id(amplitude, ids):
    ids = [each for each in ids if each.encode("utf-8", "replace").decode() == each and not each.endswith(".0")]
    amplitude.reset()
    amplitude.options(requests_per_second=None, requests_per_day=None)
    amplitude.add_flag("nav", variants=["on", "b"])
    sync("users", ids, allow_empty=True)
    assert included(amplitude) == ids
    assert sync("users", ids, allow_empty=True)["written"] is False
    sync("users", [], allow_empty=True)
    assert included(amplitude) == []


@pytest.mark.parametrize("dialect", ["v1", "beta"])
def test_users_are_added_in_the_older_api_too(amplitude, monkeypatch, dialect):
    connection = amplitude.airflow_connection(requests_per_second=1000, dialect=dialect)
    monkeypatch.setenv("AIRFLOW_CONN_AMPLITUDE_EXPERIMENT_DEFAULT", connection)
    amplitude.add_flag("nav", variants=["on", "b"])
    sync("users", ODD_IDS)
    assert included(amplitude) == ODD_IDS


# The SDK's own libraries warn of their own age.
@pytest.mark.filterwarnings("ignore")
def test_amplitudes_own_sdk_gives_each_included_user_the_variant(amplitude):
    amplitude.add_flag("nav", variants=["off-by-default", "on"], enabled=True, rollout_percentage=0)
    odd = [each for each in ODD_IDS if each != "[]"]  # the SDK reads an id that is a JSON list as a list
    people = [*odd, *(f"user-{each}" for each in range(300))]
    sync("users", people, variant="on")
    assert [each for each, seen in evaluated(amplitude, people).items() if seen != "on"] == []
    assert set(evaluated(amplitude, ["somebody-else"]).values()) == {"off"}
    sync("users", people[:200], variant="on")
    seen = evaluated(amplitude, people)
    assert [seen[each] for each in people] == ["on"] * 200 + ["off"] * (len(people) - 200)


def evaluated(emulator, people):
    client = LocalEvaluationClient(emulator.deployment_key, LocalEvaluationConfig(server_url=emulator.url))
    client.start()
    try:
        return {each: client.evaluate_v2(User(user_id=each), {"nav"})["nav"].key for each in people}
    finally:
        client.stop()
