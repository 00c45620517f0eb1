"""What a success holds, and what is no success although it says so."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from airflow_amplitude_experiment.api import (
    AmplitudeAuthError,
    AmplitudeInvalidRequest,
    AmplitudeNotEditable,
    AmplitudeRateLimited,
    AmplitudeServerError,
    AmplitudeUnexpectedAnswer,
    _exchange,
    deployments,
    experiments,
    flags,
    holdouts,
    mutexes,
    versions,
)
from airflow_amplitude_experiment.api._call import find_endpoint

from .builders import BASE, a_client, a_flag, a_page, a_server, a_version, as_json, as_text, failure, send
from .samples import samples

SAMPLES = samples("v1")
READS = {name: sample for name, sample in SAMPLES.items() if not sample.call.writes}
CREATES = {name: sample for name, sample in SAMPLES.items() if name.endswith(".create")}
TEXTS = {name: sample for name, sample in SAMPLES.items() if find_endpoint(name).answer == "ok"}
UNSPECIFIED = {name: sample for name, sample in SAMPLES.items() if find_endpoint(name).answer == "anything"}
HTML = as_text("<!doctype html><title>Sign in</title>", content_type="text/html; charset=utf-8")


def test_the_kinds_of_answers_are_those_of_the_reference():
    assert len(READS) == 24
    assert len(CREATES) == 5
    assert len(TEXTS) == 23
    assert sorted(UNSPECIFIED) == [
        "experiments.update", "flags.update", "holdouts.update", "mutexes.update", "mutexes.update_slot",
    ]  # fmt: skip


@pytest.mark.parametrize("name", sorted(SAMPLES))
@pytest.mark.parametrize(
    "page", [HTML, as_text("  \n<html>"), as_text(b"\xef\xbb\xbf<html>"), as_text("{}", content_type="text/html")],
    ids=["html", "unnamed", "bom", "named"],
)  # fmt: skip
def test_html_with_200_is_never_a_success(name, page):
    error = failure(SAMPLES[name].call, page)
    assert type(error) is AmplitudeUnexpectedAnswer
    assert "HTML" in str(error)
    assert "base URL" in str(error)
    assert error.maybe_applied is SAMPLES[name].call.writes
    assert error.status == 200


@pytest.mark.parametrize("name", sorted(READS | CREATES))
@pytest.mark.parametrize(
    "wrong", ["null", "true", "5", '"OK"', "OK", "", "{", "[1,", "{}" * 2, "[[]]", "[null]", '{"id": null}',
              '{"id": true, "key": 5}', "[" * 100_000, "NaN", "\x00\xff\xfe"],
    ids=lambda text: text[:12],
)  # fmt: skip
def test_an_answer_of_another_shape_is_an_error(name, wrong):
    outcome = send((READS | CREATES)[name].call, as_text(wrong.encode("latin-1"), content_type="application/json"))
    assert type(outcome.error) is AmplitudeUnexpectedAnswer
    assert len(outcome.sent) == 1
    assert len(str(outcome.error)) < 700


@pytest.mark.parametrize(
    "body",
    [json.dumps(a_flag()).encode("utf-8-sig"), json.dumps(a_flag()).encode("utf-16"),
     json.dumps(a_flag(new="\ud800")).encode(), b'{"id":"70001","key":"k","new":' + b"[" * 300 + b"]" * 300 + b"}"],
    ids=["byte order mark", "UTF-16", "half a pair", "deep"],
)  # fmt: skip
def test_json_that_not_every_parser_reads_is_read(body):
    assert send(flags.get(70001), as_text(body, content_type="application/json")).value.id == "70001"


@pytest.mark.parametrize("name", sorted(READS | CREATES))
def test_a_json_body_cut_in_the_middle_is_an_error(name):
    sample = (READS | CREATES)[name]
    assert type(failure(sample.call, as_text(sample.answer.content[:-2]))) is AmplitudeUnexpectedAnswer


@pytest.mark.parametrize("body", ["OK", "ok", '"OK"', " OK\n", "", '{"status": "ok"}', "{}"])
@pytest.mark.parametrize("name", sorted(TEXTS))
def test_d4_an_ok_is_an_ok(name, body):
    outcome = send(TEXTS[name].call, as_text(body))
    assert (outcome.error, outcome.value) == (None, None)


@pytest.mark.parametrize("body", ["O", "Success?", "[]", "5", '{"error": "no"}', '{"errors": []}', '{"a":', "\x00"])
@pytest.mark.parametrize("name", sorted(TEXTS))
def test_another_text_where_ok_is_documented_is_no_success(name, body):
    error = failure(TEXTS[name].call, as_text(body))
    assert type(error) is AmplitudeUnexpectedAnswer
    assert error.maybe_applied is True


@pytest.mark.parametrize("body", ["OK", "", "{}", "null", "[1]", '{"id": 5', "anything", "\x00\xff"])
@pytest.mark.parametrize("name", sorted(UNSPECIFIED))
def test_d4_an_answer_that_is_not_specified_is_not_read(name, body):
    assert send(UNSPECIFIED[name].call, as_text(body)).error is None


@pytest.mark.parametrize("body", ["OK", "", "done", "{}", "[]"])
def test_the_beta_s_answers_to_writes_are_not_specified(body):
    assert send(flags.delete_variant(1, "on"), as_text(body), dialect="beta").error is None
    assert type(failure(flags.delete_variant(1, "on"), HTML, dialect="beta")) is AmplitudeUnexpectedAnswer


@pytest.mark.parametrize("status", [200, 201, 202, 204])
def test_any_2xx_is_a_success(status):
    assert send(flags.update(1, enabled=False), as_text("", status)).error is None


# --- shapes ------------------------------------------------------------------------------------------


def test_d7_a_create_gives_the_id_and_not_the_object():
    made = send(flags.create(project_id=1, key="k"), as_json({"id": 70001, "url": "http://x"})).value
    assert (made.id, made.url) == ("70001", "http://x")
    assert send(deployments.create(project_id=1, label="x", type="client"), as_json({"id": "31"})).value.url is None
    detailed = send(flags.create(project_id=1, key="k"), as_json(a_flag(enabled=False))).value
    assert detailed.id == "70001"


@pytest.mark.parametrize(("answer", "ids"), [([], []), (["a", 7], ["a", "7"]), ([10**20], [str(10**20)])])
def test_e27_inclusions_are_texts(answer, ids):
    assert send(flags.users(1, "on"), as_json(answer)).value == ids
    assert send(experiments.cohorts(1, "on"), as_json(answer)).value == ids


@pytest.mark.parametrize("answer", [{"users": ["a"]}, [{"id": "a"}], [None], [True], [1.5], [["a"]]], ids=repr)
def test_e27_inclusions_of_another_shape_are_an_error(answer):
    assert type(failure(flags.users(1, "on"), as_json(answer))) is AmplitudeUnexpectedAnswer


@pytest.mark.parametrize(
    ("answer", "ids"), [({"users": ["a", 7]}, ["a", "7"]), (["a"], ["a"]), ({"users": [], "n": 0}, [])]
)
def test_the_beta_may_put_inclusions_into_an_object(answer, ids):
    assert send(flags.users(1, "on"), as_json(answer), dialect="beta").value == ids


@pytest.mark.parametrize("answer", [{"a": [], "b": []}, {}, {"users": [{}]}], ids=repr)
def test_an_object_of_the_beta_with_no_one_list_is_an_error(answer):
    assert type(failure(flags.users(1, "on"), as_json(answer), dialect="beta")) is AmplitudeUnexpectedAnswer


@pytest.mark.parametrize(
    ("call", "answer", "says"),
    [
        (flags.get(1), as_json({"id": 1}), "Flag: key"),
        (flags.get(1), as_json({"key": "k"}), "Flag: id"),
        (flags.get(1), as_json(a_flag(enabled="yes")), "Flag: enabled"),
        (flags.get(1), as_json(a_flag(enabled=1)), "Flag: enabled"),
        (flags.get(1), as_json(a_flag(rolloutPercentage="25")), "rolloutPercentage"),
        (flags.get(1), as_json(a_flag(rolloutPercentage=True)), "rolloutPercentage"),
        (flags.get(1), as_text(json.dumps(a_flag(rolloutPercentage=float("nan")))), "rolloutPercentage"),
        (flags.get(1), as_json(a_flag(id=1.5)), "Flag: id"),
        (flags.get(1), as_json(a_flag(targetSegments={})), "targetSegments"),
        (flags.get(1), as_json(a_flag(targetSegments=[{"conditions": [5]}])), "targetSegments.0.conditions.0"),
        (flags.get(1), as_json([a_flag()]), "a JSON list instead of an object"),
        (flags.list(), as_json([a_flag()]), "no list 'flags'"),
        (flags.list(), as_json({"experiments": []}), "no list 'flags'"),
        (flags.list(), as_json({"flags": {}}), "no list 'flags'"),
        (flags.list(), a_page("flags", {"id": 1}), "Flag: 0.key"),
        (flags.versions(1), as_json({"versions": []}), "a JSON dict instead of an array"),
        (flags.versions(1), as_json([{"version": "4", "flagConfig": {}}]), "Version: 0.version"),
        (flags.version(1, 4), as_json({"version": 4}), "Version: flagConfig"),
        (versions.list(end="2026-01-01"), a_page("versions", {"version": 4}), "Version: 0.flagConfig"),
        (mutexes.get(1), as_json({"id": 1, "slots": [{"index": "1"}]}), "slots.0.index"),
    ],
)
def test_a_wrong_field_is_named_in_the_error(call, answer, says):
    assert says in str(failure(call, answer))


def test_a_wrong_value_is_not_repeated_in_the_error():
    error = failure(flags.get(1), as_json(a_flag(enabled="alice@example.com")))
    assert "alice" not in str(error)


# --- lists and filters ---------------------------------------------------------------------------------


def test_b8_a_key_matches_exactly_even_where_the_server_matches_in_part():
    page = a_page("flags", a_flag(id=1, key="new-nav"), a_flag(id=2, key="new-nav-2"), a_flag(id=3, key="New-nav"))
    assert [flag.id for flag in send(flags.list(key="new-nav"), page).value] == ["1"]


def test_a_project_is_compared_as_text_and_an_object_that_names_none_stays():
    page = a_page("flags", a_flag(id=1, projectId=501), a_flag(id=2, projectId="502"), {"id": 3, "key": "k"})
    for given in (501, "501"):
        assert [flag.id for flag in send(flags.list(project_id=given), page).value] == ["1", "3"]


def test_b7_archived_objects_are_shown_only_when_asked_for_and_inactive_ones_always():
    page = a_page("flags", a_flag(id=1, deleted=True), a_flag(id=2, deleted=False, enabled=False), a_flag(id=3))
    assert [flag.id for flag in send(flags.list(), page).value] == ["2", "3"]
    assert [flag.id for flag in send(flags.list(include_archived=False), page).value] == ["2", "3"]
    assert [flag.id for flag in send(flags.list(include_archived=True), page).value] == ["1", "2", "3"]


GROUPS = [deployments, mutexes, holdouts]


@pytest.mark.parametrize("calls", GROUPS, ids=repr)
def test_b9_lists_without_filters_show_archived_ones_and_can_leave_them_out(calls):
    kind = repr(calls)
    pages = [a_page(kind, {"id": 1, "deleted": True}, cursor=1), a_page(kind, {"id": 2, "deleted": False})]
    assert [each.id for each in send(calls.list(), *pages, pages=True).value] == ["1", "2"]

    outcome = send(calls.list(include_archived=False), *pages)

    assert [each.id for each in outcome.value] == ["2"]
    assert [request.query for request in outcome.sent] == [{"limit": "1000"}, {"limit": "1000", "cursor": "1"}]


@pytest.mark.parametrize("calls", GROUPS, ids=repr)
def test_b9_lists_without_filters_are_filtered_by_project_here(calls):
    page = a_page(repr(calls), {"id": 1, "projectId": 501}, {"id": 2, "projectId": "502"})
    outcome = send(calls.list(project_id=502), page)
    assert [each.id for each in outcome.value] == ["2"]
    assert outcome.only.query == {"limit": "1000"}


def test_b9_groups_are_filtered_by_key_here():
    page = a_page("mutexes", {"id": 1, "key": "a"}, {"id": 2, "key": "b"}, {"id": 3})
    assert [each.id for each in send(mutexes.list(key="b"), page).value] == ["2"]


def test_b11_versions_are_filtered_by_project_here():
    page = a_page("versions", a_version(1, projectId=501), a_version(2, projectId="502"))
    outcome = send(versions.list(project_id="502", end="2026-01-01"), page)
    assert [each.version for each in outcome.value] == [2]
    assert "projectId" not in outcome.only.query


# --- what is no answer at all ----------------------------------------------------------------------------


@pytest.mark.parametrize("location", ["https://elsewhere.test/", "//elsewhere.test/x", "/login", "", "http://[bad"])
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(status, location):
    outcome = send(flags.update(1, enabled=False), httpx.Response(status, headers={"location": location}))
    assert len({str(request) for request in outcome.sent}) == 1
    assert outcome.error is not None
    if "[" not in location:
        assert type(outcome.error) is AmplitudeUnexpectedAnswer
        assert len(outcome.sent) == 1
        assert "redirect" in str(outcome.error)


def test_a_gigantic_answer_is_not_read_to_its_end(monkeypatch):
    monkeypatch.setattr(_exchange, "LONGEST_ANSWER", 1000)
    read = []

    def parts():
        for _ in range(100):
            read.append(1)
            yield b"x" * 100

    with a_server(lambda _: httpx.Response(200, content=parts())) as sent, a_client() as client:
        with pytest.raises(AmplitudeUnexpectedAnswer, match="no end"):
            client.send(flags.get(1))
        assert len(sent) == 1
        assert len(read) < 20


def test_a_gigantic_error_page_is_cut_and_keeps_its_status():
    def parts():
        for _ in range(100_000):
            yield b"<script>" * 1000

    answer = lambda _: httpx.Response(401, content=parts())  # noqa: E731
    with a_server(answer), a_client() as client, pytest.raises(AmplitudeAuthError) as caught:
        client.send(flags.get(1))
    assert len(str(caught.value)) < 1000


def test_an_error_whose_text_is_broken_keeps_its_status():
    headers = {"content-encoding": "gzip"}
    for status, error in ((401, AmplitudeAuthError), (429, AmplitudeRateLimited), (503, AmplitudeServerError)):
        answer = httpx.Response(status, headers=headers | {"retry-after": "99"}, stream=_Stream(b"not gzip"))
        assert type(failure(flags.update(1, enabled=True), lambda _, answer=answer: answer)) is error


class _Stream(httpx.SyncByteStream, httpx.AsyncByteStream):
    def __init__(self, content: bytes) -> None:
        self._content = content

    def __iter__(self) -> Any:
        yield self._content

    async def __aiter__(self) -> Any:
        yield self._content


def test_a_success_that_can_not_be_decoded_is_repeated_only_where_that_is_safe():
    def broken(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, headers={"content-encoding": "gzip"}, stream=_Stream(b"not gzip"))

    assert len(send(flags.get(1), broken, as_json(a_flag())).sent) == 2
    error = failure(flags.update(1, rollout_percentage=5), broken)
    assert type(error) is AmplitudeUnexpectedAnswer
    assert error.maybe_applied is True
    assert "could not be decoded" in str(error)


# --- error texts -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (as_json({"message": "too many"}, 400), "too many"),
        (as_json({"error": "nope"}, 400), "nope"),
        (as_json({"error": {"code": 7}}, 400), '{"error": {"code": 7}}'),
        (as_json(["a"], 400), '["a"]'),
        (as_json({"détail": "ü"}, 400), '{"détail": "ü"}'),
        (as_text("plain\n text", 400), "plain text"),
        (as_text("", 400), "no text"),
        (as_text("{broken", 400), "{broken"),
        (as_text("<html><style>p{}</style><h1>Bad</h1> gateway<script>x()", 400), "Bad gateway"),
        (as_text("\x1b[31mred\x00\u202e", 400), "[31mred"),
        (as_text(b"\xff\xfe", 400), "\ufffd\ufffd"),
        (as_text('{"message": "\\ud83d half"}', 400), "half"),
        (as_text("[" * 100_000, 400), None),
    ],
    ids=range(13),
)
def test_d5_the_text_of_an_error_is_kept_whatever_its_shape(answer, text):
    error = failure(flags.get(1), answer)
    assert type(error) is AmplitudeInvalidRequest
    assert error.text == text or (text is None and error.text.startswith("[["))
    assert str(error).isprintable()


@pytest.mark.parametrize("status", [405, 501])
def test_d1_d2_what_the_api_can_not_edit_says_so(status):
    for call in (experiments.update(1, enabled=False), flags.add_users(1, "on", ["a"])):
        error = failure(call, as_text("web experiment", status))
        assert type(error) is AmplitudeNotEditable
        assert "Amplitude's app" in str(error)


def test_e25_the_cap_of_2000_a_variant_surfaces_with_its_text():
    error = failure(flags.add_users(1, "on", ["a"]), as_text("2000 inclusions is the most", 400))
    assert "2000 inclusions is the most" in str(error)


def test_an_error_names_method_path_status_and_what_to_do():
    error = failure(flags.variant(70001, "a/b"), as_text("no such variant", 404))
    assert str(error) == (
        "GET /api/1/flags/70001/variants/a%2Fb answered 404: no such variant Check the id, its project and the region."
    )
    assert (error.method, error.path, error.status) == ("GET", "/api/1/flags/70001/variants/a%2Fb", 404)
    assert BASE not in str(error)
