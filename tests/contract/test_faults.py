"""What goes wrong on the way, and whether the caller can trust what the error says about it."""

from __future__ import annotations

import time

import pytest

from airflow_amplitude_experiment.api import (
    AmplitudeAuthError,
    AmplitudeConnectionError,
    AmplitudeError,
    AmplitudeInvalidRequest,
    AmplitudeNotEditable,
    AmplitudeNotFound,
    AmplitudePermissionError,
    AmplitudeRateLimited,
    AmplitudeServerError,
    AmplitudeUnexpectedAnswer,
    experiments,
    flags,
)

from .drive import All, run


def once(call):
    return (yield call)


def caught(way, emulator, call, **options):
    with pytest.raises(AmplitudeError) as error:
        run(way, emulator, once(call), **options)
    return error.value


def count(emulator, method):
    return len([each for each in emulator.requests() if each["method"] == method])


NOT_APPLIED = ["refuse", "cut_before"]
APPLIED = ["cut_after", "truncated"]


@pytest.mark.parametrize("fault", NOT_APPLIED + APPLIED)
def test_a_read_survives_one_fault(emulator, way, fault):
    id_ = emulator.add_flag("nav")["id"]
    emulator.fault(fault)
    assert run(way, emulator, once(flags.get(id_))).key == "nav"
    assert count(emulator, "GET") == 2


@pytest.mark.parametrize("dialect", ["v1", "beta"])
@pytest.mark.parametrize("fault", NOT_APPLIED + APPLIED)
def test_a_raise_that_was_cut_off_is_sent_once_and_may_have_been_applied(emulator, way, dialect, fault):
    id_ = emulator.add_flag("nav", enabled=True, rollout_percentage=10)["id"]
    emulator.fault(fault, method="PATCH")

    error = caught(way, emulator, flags.update(id_, rollout_percentage=50), dialect=dialect)

    assert error.maybe_applied is True
    assert type(error) is (AmplitudeUnexpectedAnswer if fault == "truncated" else AmplitudeConnectionError)
    assert count(emulator, "PATCH") == 1
    assert emulator.flag("nav")["rolloutPercentage"] == (50 if fault in APPLIED else 10)


@pytest.mark.parametrize("fault", NOT_APPLIED + APPLIED)
def test_a_way_down_that_was_cut_off_is_sent_again(emulator, way, fault):
    id_ = emulator.add_flag("nav", enabled=True, rollout_percentage=10)["id"]
    emulator.fault(fault, method="PATCH", times=3)
    run(way, emulator, once(flags.update(id_, enabled=False, rollout_percentage=0)))
    assert count(emulator, "PATCH") == 4
    assert emulator.flag("nav")["enabled"] is False


@pytest.mark.parametrize("fault", APPLIED)
def test_a_create_that_was_cut_off_creates_once(emulator, way, fault):
    emulator.fault(fault, method="POST")
    error = caught(way, emulator, flags.create(project_id=100001, key="nav"))
    assert error.maybe_applied is True
    assert [flag.key for flag in run(way, emulator, _listed())] == ["nav"]


def _listed():
    return (yield All(flags.list()))


@pytest.mark.parametrize("fault", APPLIED)
def test_a_delete_that_was_done_and_cut_off_is_done(emulator, way, fault):
    id_ = emulator.add_flag("nav", variants=["on", "b"])["id"]
    emulator.fault(fault, method="DELETE")
    run(way, emulator, once(flags.delete_variant(id_, "b")))
    assert [each["status"] for each in emulator.requests()][-1] == 404
    assert [each["key"] for each in emulator.flag("nav")["variants"]] == ["on"]


def test_a_late_answer_is_given_up_and_was_applied(emulator, way):
    id_ = emulator.add_flag("nav", enabled=True)["id"]
    emulator.fault("late", method="PATCH", seconds=0.6)
    error = caught(way, emulator, flags.update(id_, rollout_percentage=50), timeout=0.15)
    assert type(error) is AmplitudeConnectionError
    assert error.maybe_applied is True
    time.sleep(0.6)
    assert emulator.flag("nav")["rolloutPercentage"] == 50


@pytest.mark.parametrize("dialect", ["v1", "beta"])
def test_html_is_no_success_and_changes_nothing(emulator, way, dialect):
    id_ = emulator.add_flag("nav")["id"]
    for call in (flags.get(id_), flags.update(id_, enabled=False), flags.delete_variant(id_, "on"), flags.list()):
        emulator.fault("html")
        assert type(caught(way, emulator, call, dialect=dialect)) is AmplitudeUnexpectedAnswer


@pytest.mark.parametrize("details", [{}, {"retry_after": 0.01}], ids=["silent", "asks"])
def test_a_429_is_waited_out_by_every_kind_of_call(emulator, way, details, monkeypatch):
    monkeypatch.setattr("airflow_amplitude_experiment.api._retry.random.uniform", lambda low, high: 0.002)
    id_ = emulator.add_flag("nav")["id"]
    for call in (flags.get(id_), flags.update(id_, rollout_percentage=7), flags.add_users(id_, "on", ["a"])):
        emulator.fault("rate_limit", times=2, **details)
        run(way, emulator, once(call))
    assert emulator.flag("nav")["rolloutPercentage"] == 7


def test_a_429_that_asks_for_more_than_a_minute_is_an_error_at_once(emulator, way):
    emulator.fault("rate_limit", retry_after=3600, times=None)
    error = caught(way, emulator, flags.list())
    assert type(error) is AmplitudeRateLimited
    assert error.retry_after == 3600
    assert len(emulator.requests()) == 1
    emulator.clear_faults()
    emulator.fault("rate_limit", retry_after_date=7200, times=None)
    assert 7100 < caught(way, emulator, flags.list()).retry_after <= 7200


@pytest.mark.parametrize("retry_after", ["seconds", "date"])
def test_a_quota_that_is_used_up_says_until_when(emulator, way, retry_after):
    emulator.options(requests_per_day=2, retry_after=retry_after)

    def scenario():
        yield flags.list()
        yield flags.list()
        yield flags.list()

    with pytest.raises(AmplitudeRateLimited) as caught:
        run(way, emulator, scenario())
    assert caught.value.retry_after is None or caught.value.retry_after <= 86_400


def test_the_pace_stays_under_the_limit_of_the_second(emulator, way):
    emulator.options(requests_per_second=20)

    def scenario():
        for _ in range(12):
            yield flags.list()

    began = time.monotonic()
    run(way, emulator, scenario(), requests_per_second=20)
    assert time.monotonic() - began >= 11 / 20
    assert {each["status"] for each in emulator.requests()} == {200}


def test_a_5xx_is_repeated_for_reads_and_not_for_what_reaches_people(emulator, way):
    id_ = emulator.add_flag("nav")["id"]
    emulator.fault("status", status=502, times=3, body="<html>bad gateway</html>")
    assert run(way, emulator, once(flags.get(id_))).key == "nav"
    emulator.fault("status", status=503, after=True)
    error = caught(way, emulator, flags.update(id_, rollout_percentage=5))
    assert type(error) is AmplitudeServerError
    assert error.maybe_applied is True
    assert emulator.flag("nav")["rolloutPercentage"] == 5


def test_a_redirect_is_not_followed(emulator, way):
    emulator.fault("redirect", location=f"{emulator.url}/api/1/flags")
    assert type(caught(way, emulator, flags.list())) is AmplitudeUnexpectedAnswer
    assert len(emulator.requests()) == 1


# --- keys and projects -----------------------------------------------------------------------------


def two_projects(emulator):
    emulator.seed(
        {
            "projects": [{"id": "200002", "name": "Staging"}],
            "keys": [
                {"key": "key-of-staging", "projects": ["200002"]},
                {"key": "key-of-both", "projects": ["100001", "200002"]},
                {"key": "key-revoked", "projects": ["100001"], "revoked": True},
            ],
        }
    )
    emulator.add_flag("nav", name="prod")
    emulator.add_flag("nav", name="staging", project_id="200002")


@pytest.mark.parametrize("key", ["wrong-key", "key-revoked"])
def test_a_key_that_is_unknown_is_said_so_and_not_shown(emulator, way, key):
    two_projects(emulator)
    error = caught(way, emulator, flags.list(), key=key)
    assert type(error) is AmplitudeAuthError
    assert "region" in str(error)
    assert key not in str(error)


@pytest.mark.parametrize("body", ["text", "json"])
def test_a_key_of_another_project_reaches_nothing_of_this_one(emulator, way, body):
    two_projects(emulator)
    emulator.options(error_body=body)
    id_ = emulator.flag("nav")["id"]
    for call in (flags.get(id_), flags.update(id_, rollout_percentage=100), flags.create(project_id=100001, key="x")):
        error = caught(way, emulator, call, key="key-of-staging")
        assert type(error) in (AmplitudePermissionError, AmplitudeNotFound)
        assert error.maybe_applied is False
    assert emulator.flag("nav")["rolloutPercentage"] == 0


def test_the_same_key_in_two_projects_is_told_apart_by_the_project(emulator, way):
    two_projects(emulator)

    def scenario():
        both = yield All(flags.list(key="nav"))
        staging = yield All(flags.list(key="nav", project_id=200002))
        return both, staging

    for dialect in ("v1", "beta"):
        both, staging = run(way, emulator, scenario(), key="key-of-both", dialect=dialect)
        assert sorted(each.project_id for each in both) == ["100001", "200002"]
        assert [each.name for each in staging] == ["staging"]


# --- limits of the API -------------------------------------------------------------------------------


def test_2000_inclusions_fit_and_one_more_is_refused_by_the_api(emulator, way):
    id_ = emulator.add_flag("nav")["id"]
    people = [f"user-{number}" for number in range(2001)]

    def scenario():
        for start in range(0, 2000, 100):
            yield flags.add_users(id_, "on", people[start : start + 100])
        assert (yield flags.users(id_, "on")) == people[:2000]
        yield flags.add_users(id_, "on", people[2000:])

    with pytest.raises(AmplitudeInvalidRequest) as caught:
        run(way, emulator, scenario())
    assert caught.value.maybe_applied is False
    assert len(emulator.flag("nav")["variants"][0]["users"]) == 2000


def test_d3_a_403_for_people_who_are_all_there_is_a_permission_error_of_the_client(emulator, way):
    id_ = emulator.add_flag("nav", variants=[{"key": "on", "users": ["a"]}])["id"]
    emulator.options(present_inclusions=403)
    assert type(caught(way, emulator, flags.add_users(id_, "on", ["a"]))) is AmplitudePermissionError


def test_an_experiment_of_the_web_editor_can_not_be_changed(emulator, way):
    id_ = emulator.add_experiment("web", kind="web")["id"]
    error = caught(way, emulator, experiments.update(id_, enabled=False))
    assert type(error) is AmplitudeNotEditable
    assert count(emulator, "PATCH") == 1


@pytest.mark.parametrize("key", ["with space", "a/b?c#d", "🎉", "50%", "..."])
def test_keys_of_any_characters_are_created_found_and_addressed(emulator, way, key):
    def scenario():
        made = yield flags.create(project_id=100001, key=key, variants=[{"key": "on"}, {"key": key}])
        found = yield All(flags.list(key=key))
        assert [(each.id, each.key) for each in found] == [(made.id, key)]
        yield flags.update_variant(made.id, key, payload={"key": key})
        assert (yield flags.variant(made.id, key)).value == {"key": key}
        yield flags.delete_variant(made.id, key)
        assert [each.key for each in (yield flags.variants(made.id))] == ["on"]

    run(way, emulator, scenario())


def test_an_unknown_id_is_not_found(emulator, way):
    for call in (flags.get("999999"), experiments.get("a/b"), flags.versions(10**12)):
        assert type(caught(way, emulator, call)) is AmplitudeNotFound
