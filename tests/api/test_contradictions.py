"""Where the published sources contradict each other: the items of the list that no other module here decides.

The number in a name is the item's. Items that take a second request (D3, E4, E9's reading, E24, F2, F3, F11, F12)
belong to the operators; those about the app, guides and neighbouring APIs (G, H) touch no call of this client.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from airflow_amplitude_experiment.api import (
    AmplitudePermissionError,
    AmplitudeRateLimited,
    deployments,
    experiments,
    flags,
    holdouts,
    mutexes,
    versions,
)
from airflow_amplitude_experiment.api._call import ENDPOINTS, find_endpoint

from .builders import a_flag, a_page, a_version, as_json, as_text, failure, send
from .samples import samples

BOTH = pytest.mark.parametrize("calls", [flags, experiments], ids=repr)


@BOTH
@pytest.mark.parametrize("version", [4, "4", " 4"])
def test_a6_a_version_is_asked_for_by_its_number(calls, version):
    outcome = send(calls.version(1, version), as_json(a_version(4)))
    assert outcome.only.path.endswith("/1/versions/4")
    assert outcome.value.version == 4


@BOTH
@pytest.mark.parametrize("position", [0, "0", 7])
def test_a7_a_user_s_position_is_sent_in_digits(calls, position):
    assert send(calls.remove_user_at(1, "on", position), as_text()).only.path.endswith(f"/users/{position}")


@BOTH
def test_a13_deployments_are_attached_as_texts(calls):
    assert send(calls.add_deployments(1, [31, "32"]), as_text()).only.body == {"deployments": ["31", "32"]}


def test_b1_a_cursor_is_read_beside_the_array_before_inside_it():
    page = as_json({"experiments": [a_flag(), {"nextCursor": 1}], "nextCursor": 2})
    assert send(experiments.list(), page).value.next_cursor == "2"


def test_b2_the_list_stops_on_a_missing_null_or_empty_cursor_and_on_an_empty_page():
    for answer in (
        {"flags": [a_flag()]},
        {"flags": [a_flag()], "nextCursor": None},
        {"flags": [a_flag()], "nextCursor": ""},
        {"flags": [], "nextCursor": 5},
    ):
        assert len(send(flags.list(), as_json(answer), pages=True).sent) == 1


def test_b3_deployments_are_paged_like_the_others():
    pages = [a_page("deployments", {"id": 1}, cursor=1), a_page("deployments", {"id": 2})]
    assert [each.id for each in send(deployments.list(), *pages, pages=True).value] == ["1", "2"]


def test_b4_an_insert_while_paging_doubles_nothing():
    pages = [a_page("flags", a_flag(id=3), a_flag(id=2), cursor=2), a_page("flags", a_flag(id=2), a_flag(id=1))]
    assert [flag.id for flag in send(flags.list(), *pages, pages=True).value] == ["3", "2", "1"]


@pytest.mark.parametrize("calls", [flags, experiments, deployments, mutexes, holdouts], ids=repr)
def test_b5_b6_a_list_names_its_page_size_of_1000(calls):
    assert send(calls.list(), a_page(repr(calls))).only.query["limit"] == "1000"


@BOTH
def test_b10_lists_of_one_object_are_bare_arrays_and_the_feed_is_not(calls):
    assert len(send(calls.versions(1), as_json([a_version(1)])).value) == 1
    assert len(send(calls.deployments(1), as_json([{"id": 1}])).value) == 1
    assert len(send(calls.variants(1), as_json([{"key": "on"}])).value) == 1
    assert failure(calls.versions(1), a_page("versions", a_version(1)))
    assert failure(versions.list(end="2026-01-01"), as_json([a_version(1)]))


@BOTH
def test_c1_a_variant_is_edited_by_patch(calls):
    assert send(calls.update_variant(1, "on", name="N"), as_text()).only.method == "PATCH"


def test_c2_holdouts_are_listed_in_the_plural():
    assert send(holdouts.list(), a_page("holdouts")).only.path == "/api/1/holdouts"


@BOTH
def test_c3_bulk_remove_cohorts_sends_the_list_under_users(calls):
    assert send(calls.remove_cohorts(1, "on", ["1a2bc3d"]), as_text()).only.body == {"users": ["1a2bc3d"]}


@BOTH
def test_c4_bulk_deletes_carry_a_json_body_and_its_type(calls):
    for call in (calls.remove_users(1, "on", ["a"]), calls.remove_cohorts(1, "on", ["a"])):
        sent = send(call, as_text()).only
        assert (sent.method, sent.body, sent.headers["content-type"]) == (
            "DELETE",
            {"users": ["a"]},
            "application/json",
        )


@BOTH
def test_c5_inclusions_are_an_array_with_one_id_per_element(calls):
    assert send(calls.add_users(1, "on", ["a,b", "c"]), as_text()).only.body == {"inclusions": ["a,b", "c"]}


def test_c6_deployments_are_written_with_a_json_body_and_no_query():
    for call in (deployments.create(project_id=1, label="web", type="client"), deployments.update(1, archive=True)):
        sent = send(call, as_json({"id": 1})).only
        assert sent.query == {}
        assert sent.body


def test_c7_c8_attaching_creates_nothing_and_says_so():
    assert hasattr(flags, "add_deployments")
    assert not hasattr(flags, "create_deployment")


def test_c9_details_of_groups_exist():
    assert send(mutexes.get(1), as_json({"id": 1})).value.id == "1"
    assert send(holdouts.get(1), as_json({"id": 1})).value.id == "1"


def test_c10_the_link_of_a_create_is_kept_and_not_needed():
    assert (
        send(mutexes.create(project_id=1, name="m", slots=[{"percentage": 100}]), as_json({"id": 1})).value.url is None
    )


def test_c11_every_body_is_valid_json():
    for sample in samples("v1").values():
        body = send(sample.call, sample.answer).only.body
        json.dumps(body, allow_nan=False)


def test_c12_writes_are_not_all_posts_and_answers_not_all_json():
    find_endpoint("flags.get")
    assert {endpoint.method for endpoint in ENDPOINTS.values()} == {"GET", "POST", "PATCH", "DELETE"}


def test_c14_sticky_bucketing_belongs_to_the_patch():
    with pytest.raises(TypeError, match="sticky_bucketing"):
        experiments.create(project_id=1, key="k", sticky_bucketing=True)


def test_c16_there_is_no_call_for_one_deployment():
    assert not hasattr(deployments, "get")


def test_c17_json_and_text_are_both_asked_for_and_a_text_is_not_read_as_json():
    outcome = send(flags.delete_variant(1, "on"), as_text("OK"))
    assert outcome.only.headers["accept"] == "application/json, text/plain"
    assert outcome.error is None


def test_d3_the_client_calls_a_403_a_lack_of_permission_and_leaves_the_reading_back_to_the_operator():
    assert type(failure(flags.add_users(1, "on", ["a"]), as_text("403 Not Modified", 403))) is AmplitudePermissionError


def test_d6_a_429_that_lasts_is_taken_for_the_day_s_quota():
    error = failure(flags.list(), as_text("slow down", 429))
    assert type(error) is AmplitudeRateLimited
    assert "day's quota" in str(error)


def test_e7_e16_a_variant_and_a_bucketing_unit_are_free_texts():
    body = send(experiments.update(1, rolled_out_variant="A variant", bucketing_unit="org id"), as_text()).only.body
    assert body == {"rolledOutVariant": "A variant", "bucketingUnit": "org id"}


@BOTH
def test_e21_percentage_and_switch_are_no_part_of_a_create_nor_weights_of_a_patch(calls):
    for field in ({"rollout_percentage": 5}, {"enabled": True}, {"tags": []}):
        with pytest.raises(TypeError, match=next(iter(field))):
            calls.create(project_id=1, key="k", **field)
    with pytest.raises(TypeError, match="rollout_weights"):
        calls.update(1, rollout_weights={"on": 1})


def test_i5_nothing_is_deleted_but_variants_inclusions_and_attachments():
    find_endpoint("flags.get")
    deleting = {name.split(".")[1] for name, endpoint in ENDPOINTS.items() if endpoint.method == "DELETE"}
    assert deleting == {
        "delete_variant", "remove_user_at", "remove_users", "remove_all_users", "remove_cohorts", "remove_deployment",
    }  # fmt: skip


DECIDED_HERE = (
    "a1 a2 a3 a4 a5 a6 a7 a8 a9 a10 a11 a12 a13 b1 b2 b3 b4 b5 b6 b7 b8 b9 b10 b11 c1 c2 c3 c4 c5 c6 c7 c8 c9 c10 c11 "
    "c12 c14 c16 c17 d1 d2 d3 d4 d5 d6 d7 e1 e2 e3 e4 e5 e7 e8 e9 e10 e11 e12 e13 e14 e15 e16 e17 e18 e21 e22 e25 e27 "
    "e28 f1 f4 f5 f7 f8 f10 i5 i9"
)


@pytest.mark.parametrize("item", DECIDED_HERE.split())
def test_every_item_that_touches_a_client_has_a_test_with_its_number(item):
    tests = "\n".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    assert re.search(rf"def test_(\w+_)?{item}_", tests)
