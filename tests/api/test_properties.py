"""What holds for any input: random texts, answers, pages and headers."""

from __future__ import annotations

import json
import pickle
from typing import Any
from urllib.parse import unquote

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_amplitude_experiment.api import AmplitudeError, AmplitudeUnexpectedAnswer, Client, _answers, flags
from airflow_amplitude_experiment.api._call import ENDPOINTS, find_endpoint
from airflow_amplitude_experiment.api._client import Pages
from airflow_amplitude_experiment.api.errors import cut, error_from_dict
from airflow_amplitude_experiment.api.models import Page

from .builders import BASE, KEY, a_flag, a_page, a_server, as_json
from .samples import samples

find_endpoint("flags.get")
CLIENT = Client(KEY, base_url=BASE, requests_per_second=None)
SAMPLES = {dialect: samples(dialect) for dialect in ("v1", "beta")}
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=50)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
FIELDS = st.sampled_from(
    ["id", "key", "flags", "experiments", "deployments", "versions", "mutexes", "holdouts", "nextCursor", "version",
     "flagConfig", "projectId", "enabled", "rolloutPercentage", "targetSegments", "slots", "payload", "users",
     "deleted"]
)  # fmt: skip
LIKE_OURS = st.dictionaries(FIELDS, JSON | st.lists(st.dictionaries(FIELDS, JSON, max_size=4), max_size=3), max_size=6)
quickly = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(autouse=True)
def no_time_passes(waiting):
    return waiting


@quickly
@given(TEXT)
def test_any_key_travels_as_one_path_part_or_is_refused(key):
    with a_server(as_json([])) as sent:
        try:
            CLIENT.send(flags.users(1, key))
        except ValueError:
            assert not sent
            assert not key.strip() or key in (".", "..")
            return
    part = sent[0].path.removeprefix("/api/1/flags/1/variants/").removesuffix("/users")
    assert "/" not in part
    assert unquote(part) == key
    assert part not in (".", "..", "")


@quickly
@given(TEXT, TEXT | st.integers())
def test_any_filter_and_cursor_travel_as_they_are(key, cursor):
    with a_server(a_page("flags")) as sent:
        try:
            CLIENT.send(flags.list(key=key, cursor=cursor))
        except ValueError:
            assert not sent
            return
    assert sent[0].query == {"limit": "1000", "key": key, "cursor": str(cursor).strip()}


@quickly
@given(st.text(max_size=200), st.lists(TEXT | st.integers(), max_size=5))
def test_any_body_is_sent_whole_or_refused(name, people):
    with a_server(as_json({})) as sent:
        for call in (flags.update(1, name=name), flags.add_users(1, "on", people)):
            try:
                CLIENT.send(call)
            except ValueError:
                continue
            assert sent[-1].body in ({"name": name}, {"inclusions": [str(each) for each in people]})


@quickly
@given(st.integers(), st.booleans())
def test_an_id_reads_the_same_as_text_and_as_number(number, as_text):
    given_id = str(number) if as_text else number
    with a_server(as_json(a_flag(id=given_id))) as sent:
        read = CLIENT.send(flags.get(given_id))
    assert read.id == str(number)
    assert sent[0].path == f"/api/1/flags/{number}"


@settings(quickly, max_examples=100)
@given(st.lists(st.lists(st.integers(0, 12), min_size=1, max_size=6), max_size=8), st.integers(0, 3))
def test_pages_in_any_overlap_give_each_object_once_in_order(numbers, kind):
    cursors: list[Any] = [[f"c{index}", index, float(index), f"{index}?&"][kind] for index in range(len(numbers))]
    answers = [
        a_page(
            "flags", *(a_flag(id=each) for each in page), cursor=cursors[index] if index + 1 < len(numbers) else None
        )
        for index, page in enumerate(numbers)
    ] or [a_page("flags")]
    with a_server(*answers) as sent:
        found = [flag.id for flag in CLIENT.iterate(flags.list())]
    expected = list(dict.fromkeys(str(each) for page in numbers for each in page))
    assert found == expected
    assert len(sent) == len(answers)


@settings(quickly, max_examples=100)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=12))
def test_any_walk_of_cursors_ends(cursors):
    pages: Pages[Any] = Pages(flags.list())
    steps = 0
    with pytest.MonkeyPatch.context():
        try:
            for cursor in cursors:
                if pages.next_call() is None:
                    break
                steps += 1
                list(pages.fresh(Page([], next_cursor=str(cursor))))
        except AmplitudeUnexpectedAnswer:
            pass
    assert steps <= 7


@settings(quickly, max_examples=200)
@given(
    st.text(max_size=60)
    | st.from_regex(r"(Mon|Xxx), \d{1,12} (Jan|Foo) \d{1,12} \d+:\d+:\d+ (GMT|[-+]\d{1,20}|UT)", fullmatch=True)
)
def test_any_retry_after_is_a_wait_of_at_most_a_day_or_none(text):
    found = _answers.retry_after({"retry-after": text})
    assert found is None or 0 <= found <= 86_400


@settings(quickly, max_examples=200)
@given(
    st.sampled_from(sorted(SAMPLES["v1"])),
    st.sampled_from(["v1", "beta"]),
    st.binary(max_size=200),
    st.sampled_from(["", "application/json", "text/html"]),
)
def test_any_bytes_are_a_value_or_an_unexpected_answer(name, dialect, content, content_type):
    _reads_or_refuses(name, dialect, content, content_type)


@settings(quickly, max_examples=250)
@given(
    st.sampled_from(sorted(SAMPLES["v1"])),
    st.sampled_from(["v1", "beta"]),
    JSON | LIKE_OURS | st.lists(LIKE_OURS, max_size=3),
)
def test_any_json_is_a_value_or_an_unexpected_answer(name, dialect, data):
    _reads_or_refuses(name, dialect, json.dumps(data).encode(), "application/json")


def _reads_or_refuses(name: str, dialect: str, content: bytes, content_type: str) -> None:
    if name not in SAMPLES[dialect]:
        return
    client = CLIENT if dialect == "v1" else BETA
    answer = httpx.Response(200, content=content, headers={"content-type": content_type} if content_type else {})
    with a_server(answer):
        try:
            value = client.send(SAMPLES[dialect][name].call)
        except AmplitudeUnexpectedAnswer as error:
            pickle.dumps(error)
        except AmplitudeError as error:
            raise AssertionError(error) from error
        else:
            repr(value)


BETA = Client(KEY, base_url=BASE, requests_per_second=None, dialect="beta")


@settings(quickly, max_examples=300)
@given(st.integers(300, 599), st.binary(max_size=300), st.binary(max_size=30))
def test_any_failure_is_one_of_our_errors_and_travels(status, content, header):
    headers = [
        (b"retry-after", header.replace(b"\n", b"").replace(b"\r", b"")),
        (b"location", header.replace(b"\n", b"").replace(b"\r", b"")),
    ]
    with a_server(httpx.Response(status, content=content, headers=headers)), pytest.raises(AmplitudeError) as caught:
        CLIENT.send(flags.update(1, rollout_percentage=5))
    error = caught.value
    assert error.status in (status, None)
    assert error_from_dict(json.loads(json.dumps(error.as_dict(), allow_nan=False))).as_dict() == error.as_dict()
    str(error).encode()


@quickly
@given(st.text(max_size=1500))
def test_any_text_is_cut_to_one_printable_line_once(text):
    short = cut(text)
    assert len(short) <= 500
    assert short.isprintable()
    assert cut(short) == short


@settings(quickly, max_examples=200)
@given(st.sampled_from(sorted(ENDPOINTS)), st.data())
def test_any_argument_is_sent_or_a_value_error(name, data):
    """No check crashes on a value that it doesn't expect, and none names it at length."""
    endpoint = ENDPOINTS[name]
    arguments = {}
    for field in endpoint.fields:
        if field in endpoint.required or data.draw(st.booleans()):
            arguments[field] = data.draw(JSON | LIKE_OURS | st.just("1") | st.just(1), label=field)
    for dialect in ("v1", "beta"):
        refusal = None
        try:
            prepared = endpoint.prepare(arguments, dialect=dialect)
        except ValueError as error:
            refusal = error
        if refusal is not None:
            assert type(refusal) is ValueError
            assert len(str(refusal)) < 1500
            continue
        json.dumps(prepared.body, allow_nan=False).encode()
        assert prepared.path.startswith("/")
