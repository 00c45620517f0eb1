"""Lists are read to their end, each object once, whatever the server calls the next page."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest
import time_machine

from airflow_amplitude_experiment.api import (
    AmplitudeNotFound,
    AmplitudeUnexpectedAnswer,
    deployments,
    experiments,
    flags,
    holdouts,
    mutexes,
    versions,
)
from airflow_amplitude_experiment.api._client import Pages
from airflow_amplitude_experiment.api.models import Page

from .builders import (
    a_client,
    a_flag,
    a_page,
    a_server,
    a_version,
    an_async_client,
    as_json,
    as_text,
    failure,
    refused,
    send,
)

NOW = datetime(2026, 3, 1, tzinfo=UTC)
LISTS = [flags.list(), experiments.list(), deployments.list(), mutexes.list(), holdouts.list(), versions.list()]


def item(call, number):
    return a_version(number) if call.endpoint == "versions.list" else {"id": number, "key": f"k{number}"}


def kind(call):
    return call.endpoint.split(".")[0]


@time_machine.travel(NOW, tick=False)
@pytest.mark.parametrize("call", LISTS, ids=repr)
def test_every_list_asks_for_1000_by_name_whether_sent_or_iterated(call):
    pages = [a_page(kind(call), item(call, 1), cursor=1), a_page(kind(call), item(call, 2))]
    assert send(call, *pages).only.query["limit"] == "1000"
    outcome = send(call, *pages, pages=True)
    assert [request.query["limit"] for request in outcome.sent] == ["1000", "1000"]
    assert [request.query.get("cursor") for request in outcome.sent] == [None, "1"]
    assert len(outcome.value) == 2


@time_machine.travel(NOW, tick=False)
@pytest.mark.parametrize("call", LISTS, ids=repr)
def test_an_object_on_two_pages_is_given_once(call):
    pages = [
        a_page(kind(call), item(call, 3), item(call, 2), cursor="a"),
        a_page(kind(call), item(call, 2), item(call, 1), cursor="b"),
        a_page(kind(call), item(call, 1)),
    ]
    assert len(send(call, *pages, pages=True).value) == 3


@pytest.mark.parametrize(
    ("cursor", "sent"),
    [("abc", "abc"), (3003, "3003"), ("3003", "3003"), (7.0, "7"), (0, "0"), ("a/b?c=d&e", "a/b?c=d&e"), (-1, "-1"),
     ("ü🎉", "ü🎉"), (2.5, "2.5"), (10**30, str(10**30)), ("x" * 1000, "x" * 1000)],
    ids=lambda cursor: str(cursor)[:12],
)  # fmt: skip
def test_a_cursor_of_any_type_is_given_back_as_it_came(cursor, sent):
    outcome = send(flags.list(), a_page("flags", a_flag(), cursor=cursor), a_page("flags"), pages=True)
    assert outcome.sent[1].query["cursor"] == sent


@pytest.mark.parametrize("end", [{}, {"nextCursor": None}, {"nextCursor": ""}], ids=["absent", "null", "empty"])
def test_a_list_ends_where_there_is_no_cursor(end):
    outcome = send(flags.list(), as_json({"flags": [a_flag()]} | end), pages=True)
    assert len(outcome.sent) == 1
    assert len(outcome.value) == 1


def test_an_empty_page_ends_the_list_although_it_names_another():
    outcome = send(flags.list(), a_page("flags", a_flag(), cursor=1), a_page("flags", cursor=2), pages=True)
    assert len(outcome.sent) == 2


def test_a_page_that_only_our_own_filter_emptied_does_not_end_the_list():
    pages = [a_page("flags", a_flag(key="other"), cursor=1), a_page("flags", a_flag())]
    assert len(send(flags.list(key="checkout-copy"), *pages, pages=True).value) == 1


@pytest.mark.parametrize("cursors", [(1, 1), ("a", "b", "a"), (1, "1"), (1, 1.0)], ids=str)
def test_a_server_that_repeats_a_cursor_is_ended_with_an_error(cursors):
    pages = [a_page("flags", a_flag(id=number), cursor=cursor) for number, cursor in enumerate(cursors)]
    outcome = send(flags.list(), *pages, pages=True)
    assert type(outcome.error) is AmplitudeUnexpectedAnswer
    assert "repeats the cursor" in str(outcome.error)
    assert len(outcome.sent) == len(cursors)


def test_a_server_that_answers_with_the_cursor_it_was_given_is_ended_at_once():
    outcome = send(flags.list(cursor=5), a_page("flags", a_flag(), cursor=5), pages=True)
    assert type(outcome.error) is AmplitudeUnexpectedAnswer
    assert len(outcome.sent) == 1


@pytest.mark.parametrize("beside", [[{"nextCursor": 2}], [{"nextCursor": "2"}]], ids=["number", "text"])
def test_a_cursor_inside_the_array_is_found_there(beside):
    first = as_json({"experiments": [a_flag(id=1), *beside]})
    outcome = send(experiments.list(), first, a_page("experiments", a_flag(id=2)), pages=True)
    assert [each.id for each in outcome.value] == ["1", "2"]
    assert outcome.sent[1].query["cursor"] == "2"


def test_what_is_no_object_in_an_array_is_passed_over():
    outcome = send(experiments.list(), as_json({"experiments": [a_flag(), "text", 5, None, {}, {"key": "no id"}]}))
    assert len(outcome.value) == 1


@pytest.mark.parametrize("cursor", [True, [], {}, "\ud800", "x" * 1001, "a\nb", "  "], ids=lambda each: repr(each)[:9])
def test_a_cursor_that_can_not_be_sent_back_is_an_error(cursor):
    error = failure(flags.list(), a_page("flags", a_flag(), cursor=cursor))
    assert type(error) is AmplitudeUnexpectedAnswer
    assert "nextCursor" in str(error)


def test_the_caller_s_own_limit_and_cursor_are_kept():
    outcome = send(flags.list(limit=2, cursor="x"), a_page("flags", a_flag(), cursor="y"), a_page("flags"), pages=True)
    assert [request.query for request in outcome.sent] == [
        {"limit": "2", "cursor": "x"}, {"limit": "2", "cursor": "y"},
    ]  # fmt: skip


@pytest.mark.parametrize("limit", [0, 1001, -1, 2.5, "many", None, True])
def test_a_page_size_that_the_api_does_not_have_is_refused(limit):
    assert "limit" in refused(lambda: flags.list(limit=limit))


def test_filters_are_sent_with_every_page():
    call = flags.list(key="checkout-copy", project_id=501)
    outcome = send(call, a_page("flags", a_flag(), cursor=1), a_page("flags"), pages=True)
    assert all(request.query["key"] == "checkout-copy" for request in outcome.sent)
    assert all(request.query["projectId"] == "501" for request in outcome.sent)


def test_an_error_on_a_later_page_is_raised_after_what_came_before():
    with a_server(a_page("flags", a_flag(), cursor=1), as_text("gone", 404)), a_client() as client:
        found = client.iterate(flags.list())
        assert next(found).id == "70001"
        with pytest.raises(AmplitudeNotFound):
            next(found)


def test_nothing_is_sent_before_the_first_object_is_asked_for_and_no_page_too_many():
    with a_server(a_page("flags", a_flag(id=1), a_flag(id=2), cursor=1), a_page("flags")) as sent, a_client() as client:
        found = client.iterate(flags.list())
        assert sent == []
        next(found)
        next(found)
        assert len(sent) == 1


def test_objects_before_one_of_another_shape_are_given_and_then_it_is_an_error():
    with a_server(a_page("flags", a_flag(id=1), a_flag(id=2, enabled="yes"))), a_client() as client:
        found = client.iterate(flags.list())
        assert next(found).id == "1"
        with pytest.raises(AmplitudeUnexpectedAnswer, match=r"Flag: 1\.enabled") as caught:
            next(found)
    assert (caught.value.status, caught.value.method, caught.value.path) == (200, "GET", "/api/1/flags")


async def test_rows_of_a_page_are_read_as_they_are_taken():
    with a_server(a_page("flags", a_flag(id=1), a_flag(id=2, enabled="yes"), cursor=7)):
        async with an_async_client() as client:
            rows = await client.rows(flags.list())
    assert (rows.next_cursor, next(iter(rows)).id) == ("7", "1")
    with pytest.raises(AmplitudeUnexpectedAnswer, match=r"Flag: 1\.enabled"):
        next(iter(rows))


@pytest.mark.parametrize("call", [flags.get(1), flags.update(1, enabled=True), flags.variants(1)], ids=repr)
async def test_only_a_list_in_pages_has_rows_and_nothing_else_is_sent_for_them(call):
    with a_server(as_text()) as sent:
        async with an_async_client() as client:
            with pytest.raises(TypeError, match="no pages"):
                await client.rows(call)
    assert sent == []


@pytest.mark.parametrize("whole", [False, True], ids=["iterated", "sent"])
async def test_an_event_loop_turns_while_a_long_page_is_read(whole):
    async def turns_while_reading(count):
        turns = 0

        async def turn():
            nonlocal turns
            while True:
                await asyncio.sleep(0)
                turns += 1

        with a_server(a_page("flags", *(a_flag(id=number) for number in range(count)))):
            async with an_async_client() as client:
                turning = asyncio.create_task(turn())
                if whole:
                    read = len(await client.send(flags.list()))
                else:
                    read = len([flag async for flag in client.iterate(flags.list())])
                turning.cancel()
        assert read == count
        return turns

    assert await turns_while_reading(1000) - await turns_while_reading(1) >= 9


def test_pages_are_repeated_one_by_one_after_a_fault():
    pages = [a_page("flags", a_flag(id=1), cursor=1), as_text("down", 503), a_page("flags", a_flag(id=2))]
    outcome = send(flags.list(), *pages, pages=True)
    assert [flag.id for flag in outcome.value] == ["1", "2"]


@time_machine.travel(NOW, tick=False)
def test_versions_of_different_objects_are_not_taken_for_each_other():
    nameless = [{"version": 1, "flagConfig": {"key": key}} for key in ("a", "b")]
    page = a_page("versions", a_version(1, of="1"), a_version(1, of="2"), a_version(2, of="1"), *nameless)
    assert len(send(versions.list(), page, pages=True).value) == 5


def test_a_page_is_a_sequence_of_its_objects():
    page = send(flags.list(), a_page("flags", a_flag(), cursor=9)).value
    assert isinstance(page, Page)
    assert (len(page), page.next_cursor, [flag.key for flag in page]) == (1, "9", ["checkout-copy"])


def test_pages_can_be_walked_without_a_client():
    pages = Pages(flags.list(key="k"))
    assert pages.next_call() == flags.list(key="k")
    assert list(pages.fresh(Page([], next_cursor="2"))) == []
    assert pages.next_call() == flags.list(key="k", cursor="2")
    list(pages.fresh(Page([])))
    assert pages.next_call() is None


@time_machine.travel(NOW, tick=False)
def test_versions_keep_one_end_over_all_pages():
    pages = [a_page("versions", a_version(2), cursor=1), a_page("versions", a_version(1))]
    outcome = send(versions.list(), *pages, pages=True)
    assert [request.query["end"] for request in outcome.sent] == ["2026-03-01T00:00:00.000Z"] * 2
    given = send(versions.list(end="2026-01-01"), *pages, pages=True)
    assert {request.query["end"] for request in given.sent} == {"2026-01-01T00:00:00.000Z"}
