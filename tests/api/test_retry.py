"""What is sent again after a failure, what never, and how long a client waits."""

from __future__ import annotations

import asyncio
import csv
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx
import pytest
import time_machine

from airflow_amplitude_experiment.api import (
    AmplitudeAuthError,
    AmplitudeConnectionError,
    AmplitudeInvalidRequest,
    AmplitudeNotEditable,
    AmplitudeNotFound,
    AmplitudePermissionError,
    AmplitudeRateLimited,
    AmplitudeServerError,
    AmplitudeUnexpectedAnswer,
    Call,
    deployments,
    experiments,
    flags,
    mutexes,
)

from .builders import BASE, a_client, a_flag, a_server, an_async_client, as_json, as_text, failure, send
from .samples import SEGMENT, samples
from .test_calls import DIALECT, REFERENCE, endpoint_of, named

ROWS = list(csv.DictReader((REFERENCE / "endpoints.csv").open()))
SAMPLES = {dialect: samples(dialect) for dialect in ("v1", "beta")}
DOWN = as_text("down", 503)
LOST = httpx.ReadError("lost")
UNREACHED = httpx.ConnectError("refused")
REACHES_PEOPLE = {"experiments.activate", "experiments.set_rollout_weights"}
"""They are the PATCH of ``enabled: true`` and of weights by other names, so they are not repeated either."""


def harmless(name: str, dialect: str) -> Call:
    """A call of this endpoint whose body holds nothing that reaches or moves people."""
    kind, function = name.split(".")
    if function in ("update", "update_variant") and kind in ("flags", "experiments"):
        sample = SAMPLES[dialect][name].call
        path = {part: sample.arguments[part] for part in ("id", "variant_key") if part in sample.arguments}
        return Call(name, path | {"name": "N"})
    return SAMPLES[dialect][name].call


@pytest.mark.parametrize("failed", [DOWN, LOST], ids=["503", "lost"])
@pytest.mark.parametrize("row", ROWS, ids=named)
def test_only_what_the_reference_calls_safe_is_sent_again(row, failed):
    name, dialect = endpoint_of(row).name, DIALECT[row["api"]]
    safe = row["safe_to_retry_blindly"].startswith("y") and name not in REACHES_PEOPLE

    outcome = send(harmless(name, dialect), failed, SAMPLES[dialect][name].answer, dialect=dialect)

    assert len(outcome.sent) == (2 if safe else 1)
    if not safe:
        assert outcome.error.maybe_applied is True


@pytest.mark.parametrize("row", ROWS, ids=named)
def test_what_never_left_is_sent_again_whatever_it_is(row):
    name, dialect = endpoint_of(row).name, DIALECT[row["api"]]
    sample = SAMPLES[dialect][name]
    outcome = send(sample.call, UNREACHED, sample.answer, dialect=dialect)
    assert outcome.error is None
    assert len(outcome.sent) == 2


@pytest.mark.parametrize("row", ROWS, ids=named)
def test_what_was_refused_by_the_limit_is_sent_again_whatever_it_is(row):
    name, dialect = endpoint_of(row).name, DIALECT[row["api"]]
    sample = SAMPLES[dialect][name]
    outcome = send(sample.call, as_text("slow down", 429), sample.answer, dialect=dialect)
    assert outcome.error is None
    assert len(outcome.sent) == 2


@pytest.mark.parametrize("calls", [flags, experiments], ids=repr)
@pytest.mark.parametrize(
    ("fields", "again"),
    [
        ({"enabled": True}, False),
        ({"enabled": "true"}, False),
        ({"enabled": True, "rollout_percentage": 0}, False),
        ({"enabled": False}, True),
        ({"rollout_percentage": 0}, True),
        ({"rollout_percentage": 1}, False),
        ({"rollout_percentage": "100"}, False),
        ({"enabled": False, "rollout_percentage": 0}, True),
        ({"enabled": False, "rollout_percentage": 5}, False),
        ({"target_segments": []}, False),
        ({"target_segments": [SEGMENT]}, False),
        ({"enabled": False, "target_segments": []}, False),
        ({"name": "x", "description": "y", "tags": ["a"]}, True),
        ({"archive": True}, True),
        ({"archive": False}, False),
        ({"bucketing_salt": "x"}, True),
    ],
)
def test_a_change_that_raises_is_never_repeated_and_one_that_lowers_is(calls, fields, again):
    outcome = send(calls.update(1, **fields), DOWN, as_text())
    assert len(outcome.sent) == (2 if again else 1)
    assert (outcome.error is None) is again


@pytest.mark.parametrize(
    ("fields", "again"),
    [
        ({"name": "x"}, True),
        ({"payload": {"a": 1}, "description": "d"}, True),
        ({"key": "new"}, False),
        ({"rollout_weight": 0}, False),
        ({"rollout_weight": 2, "name": "x"}, False),
    ],
)
def test_a_rename_or_a_new_weight_of_a_variant_is_never_repeated(fields, again):
    assert len(send(flags.update_variant(1, "on", **fields), LOST, as_text()).sent) == (2 if again else 1)


def test_deactivate_is_repeated_and_activate_is_not_in_either_dialect():
    for dialect in ("v1", "beta"):
        assert len(send(experiments.deactivate(1), DOWN, as_text(), dialect=dialect).sent) == 2
        assert len(send(experiments.activate(1), DOWN, as_text(), dialect=dialect).sent) == 1


# --- how often and how long ------------------------------------------------------------------------


@pytest.mark.parametrize("failed", [DOWN, LOST, UNREACHED, as_text("bad gateway", 502), as_text("late", 504)])
def test_a_fault_is_tried_four_times_with_growing_waits(failed):
    outcome = send(flags.get(1), failed)
    assert len(outcome.sent) == 4
    assert outcome.slept == [0.5, 1.0, 2.0]


def test_waits_carry_jitter():
    seen = set()
    for _ in range(5):
        with pytest.MonkeyPatch.context() as patch, a_server(DOWN, as_json(a_flag())), a_client() as client:
            slept: list[float] = []
            patch.setattr("time.sleep", slept.append)
            client.send(flags.get(1))
            seen.add(max(slept))
    assert len(seen) > 1
    assert all(0.25 <= wait <= 0.5 for wait in seen)


def test_a_429_without_retry_after_waits_longer_each_time_and_at_most_a_minute():
    outcome = send(flags.get(1), as_text("slow down", 429))
    assert outcome.slept == [2, 4, 8, 16, 16]
    assert isinstance(outcome.error, AmplitudeRateLimited)
    assert len(outcome.sent) == 6


@pytest.mark.parametrize(("asked", "waits"), [("3", 3.0), ("2.5", 2.5), ("60", 60.0), (" 7 ", 7.0)])
def test_retry_after_in_seconds_is_honoured(asked, waits):
    outcome = send(flags.get(1), as_text("slow down", 429, retry_after=asked), as_json(a_flag()))
    assert outcome.slept == [waits]
    assert outcome.error is None


@pytest.mark.parametrize("naive", [False, True], ids=["GMT", "-0000"])
def test_retry_after_as_an_http_date_is_honoured(naive):
    with time_machine.travel(datetime(2026, 3, 1, 12, tzinfo=UTC), tick=False):
        moment = datetime.now(UTC) + timedelta(seconds=20)
        asked = format_datetime(moment.replace(tzinfo=None)) if naive else format_datetime(moment, usegmt=True)
        outcome = send(flags.get(1), as_text("slow down", 429, retry_after=asked), as_json(a_flag()))
    assert outcome.slept == [20.0]


@pytest.mark.parametrize("asked", ["61", "86400", "9" * 400, "Fri, 31 Dec 2999 23:59:59 GMT"])
def test_a_wait_beyond_a_minute_is_not_begun(asked):
    outcome = send(flags.get(1), as_text("slow down", 429, retry_after=asked))
    assert outcome.slept == []
    assert len(outcome.sent) == 1
    assert 60 < outcome.error.retry_after <= 86_400


@pytest.mark.parametrize("asked", ["0", "0.0", "Sun, 01 Mar 2020 12:00:00 GMT"])
def test_a_server_that_asks_for_no_wait_is_not_asked_without_an_end(asked):
    outcome = send(flags.get(1), as_text("slow down", 429, retry_after=asked))
    assert outcome.slept == [2, 4, 8, 16, 16]


def test_a_server_that_asks_for_hardly_any_wait_gets_half_a_second():
    outcome = send(flags.get(1), as_text("slow down", 429, retry_after="0.001"))
    assert set(outcome.slept) == {0.5}
    assert sum(outcome.slept) <= 60


@pytest.mark.parametrize("asked", ["-5", "soon", "", "٣", "1e3", "Sun, 99 Foo 2020", "0x10"])
def test_an_unreadable_retry_after_counts_as_none(asked):
    response = as_text("slow down", 429)
    headers = [*response.headers.raw, (b"retry-after", asked.encode())]
    response = httpx.Response(429, headers=headers, content=b"slow down")
    assert send(flags.get(1), response, as_json(a_flag())).slept == [2]


def test_retry_after_counts_for_a_5xx_too():
    assert send(flags.get(1), as_text("down", 503, retry_after="9"), as_json(a_flag())).slept == [9]


def test_patience_counts_all_waits_together():
    outcome = send(flags.get(1), as_text("slow down", 429, retry_after="25"))
    assert outcome.slept == [25, 25]
    assert len(outcome.sent) == 3


def test_patience_counts_the_time_that_slow_refusals_take(monkeypatch):
    from tenacity import RetryCallState

    monkeypatch.setattr(RetryCallState, "seconds_since_start", property(lambda _: 60.5))
    assert send(flags.get(1), as_text("slow down", 429, retry_after="2")).slept == []


def test_a_429_does_not_use_up_the_tries_for_faults():
    answers = [as_text("slow", 429, retry_after="1")] * 5 + [DOWN, as_json(a_flag())]
    assert send(flags.get(1), *answers).error is not None  # 6 tries are behind it when the fault comes
    assert send(flags.get(1), *answers[4:]).error is None


@pytest.mark.parametrize(
    ("status", "error"),
    [(400, AmplitudeInvalidRequest), (401, AmplitudeAuthError), (403, AmplitudePermissionError),
     (404, AmplitudeNotFound), (405, AmplitudeNotEditable), (409, AmplitudeInvalidRequest),
     (413, AmplitudeInvalidRequest), (422, AmplitudeInvalidRequest), (501, AmplitudeNotEditable),
     (302, AmplitudeUnexpectedAnswer), (304, AmplitudeUnexpectedAnswer)],
)  # fmt: skip
def test_what_can_not_heal_is_not_sent_again(status, error):
    outcome = send(flags.update(1, enabled=False), as_text("no", status))
    assert type(outcome.error) is error
    assert len(outcome.sent) == 1
    assert outcome.error.maybe_applied is False


@pytest.mark.parametrize("status", [500, 502, 503, 504, 520, 599])
def test_a_5xx_after_a_write_that_is_not_repeated_may_have_applied_it(status):
    error = failure(flags.update(1, rollout_percentage=10), as_text("oops", status))
    assert type(error) is AmplitudeServerError
    assert error.maybe_applied is True
    assert "read the object before writing again" in str(error)


def test_a_5xx_after_a_read_applied_nothing():
    assert failure(flags.get(1), DOWN).maybe_applied is False


def test_a_write_that_never_left_is_not_maybe_applied():
    error = failure(flags.update(1, rollout_percentage=10), UNREACHED)
    assert type(error) is AmplitudeConnectionError
    assert error.maybe_applied is False


@pytest.mark.parametrize(
    "lost", [httpx.ReadTimeout("t"), httpx.ReadError("r"), httpx.WriteError("w"), httpx.WriteTimeout("w"),
             httpx.RemoteProtocolError("p"), httpx.CloseError("c")], ids=lambda error: type(error).__name__
)  # fmt: skip
def test_a_connection_lost_after_sending_may_have_applied_a_write(lost):
    outcome = send(flags.update(1, rollout_percentage=10), lost)
    assert type(outcome.error) is AmplitudeConnectionError
    assert outcome.error.maybe_applied is True
    assert len(outcome.sent) == 1
    assert type(lost).__name__ in str(outcome.error)


@pytest.mark.parametrize(
    "never", [httpx.ConnectError("c"), httpx.ConnectTimeout("t"), httpx.PoolTimeout("p"), httpx.ProxyError("p")],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_a_connection_that_was_never_made_applied_nothing_and_is_tried_again(never):
    outcome = send(flags.create(project_id=1, key="k"), never, as_json({"id": 1}))
    assert outcome.error is None
    assert len(outcome.sent) == 2


def test_a_doubt_stays_whatever_the_repeat_is_answered():
    for last in (as_text("bad", 400), as_text("key revoked", 401), as_text("slow", 429, retry_after="99"), UNREACHED):
        error = failure(flags.update(1, enabled=False), LOST, last)
        assert error.maybe_applied is True, last


def test_a_limit_refusal_alone_leaves_no_doubt():
    error = failure(flags.update(1, enabled=False), as_text("slow", 429, retry_after="99"))
    assert error.maybe_applied is False


# --- deletes that were perhaps done ------------------------------------------------------------------

GONE = [flags.delete_variant(1, "on"), experiments.delete_variant(1, "on"), flags.remove_deployment(1, 2)]


@pytest.mark.parametrize("call", GONE, ids=repr)
@pytest.mark.parametrize("first", [LOST, DOWN], ids=["lost", "503"])
def test_a_404_on_a_repeated_delete_means_done(call, first):
    outcome = send(call, first, as_text("not found", 404))
    assert outcome.error is None
    assert outcome.value is None
    assert len(outcome.sent) == 2


@pytest.mark.parametrize("call", GONE, ids=repr)
@pytest.mark.parametrize("before", [[], [UNREACHED], [as_text("slow", 429)]], ids=["first", "unreached", "limited"])
def test_a_404_on_a_delete_that_can_not_have_happened_is_an_error(call, before):
    assert isinstance(failure(call, *before, as_text("not found", 404)), AmplitudeNotFound)


@pytest.mark.parametrize(
    "call", [flags.remove_users(1, "on", ["a"]), flags.remove_all_users(1, "on"), flags.update(1, enabled=False),
             deployments.update(1, archive=True), mutexes.update(1, archive=True)], ids=repr,
)  # fmt: skip
def test_a_404_on_any_other_repeated_write_is_an_error_with_a_doubt(call):
    error = failure(call, LOST, as_text("not found", 404))
    assert isinstance(error, AmplitudeNotFound)
    assert error.maybe_applied is True


# --- tracebacks and cancelling ---------------------------------------------------------------------


def test_an_error_keeps_its_cause_and_shows_no_machinery():
    error = failure(flags.get(1), LOST)
    assert isinstance(error.__cause__, httpx.ReadError)
    assert error.__context__ is None or error.__suppress_context__
    assert failure(flags.get(1), DOWN).__cause__ is None
    assert failure(flags.get(1), DOWN).__context__ is None


def test_a_keyboard_interrupt_while_sending_or_waiting_comes_through_at_once():
    for interrupted in (KeyboardInterrupt(), SystemExit(1)):

        def interrupt(_: httpx.Request, why: BaseException = interrupted) -> httpx.Response:
            raise why

        with a_server(interrupt) as sent, a_client() as client:
            with pytest.raises(type(interrupted)):
                client.send(flags.get(1))
            assert len(sent) == 1

        with pytest.MonkeyPatch.context() as patch, a_server(DOWN) as sent, a_client() as client:

            def stop(_: float, why: BaseException = interrupted) -> None:
                raise why

            patch.setattr("airflow_amplitude_experiment.api._client.Pace.reserve", lambda _: 0)
            patch.setattr("time.sleep", lambda seconds: stop(seconds) if seconds else None)
            with pytest.raises(type(interrupted)):
                client.send(flags.get(1))
            assert len(sent) == 1


async def test_cancelling_while_waiting_for_another_try_comes_through_at_once():
    with a_server(as_text("slow", 429, retry_after="50")) as sent:
        async with an_async_client() as client:
            task = asyncio.create_task(client.send(flags.get(1)))
            while not sent:
                await asyncio.sleep(0)
            await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asyncio.wait_for(task, 1)
            assert len(sent) == 1


async def test_cancelling_while_waiting_for_a_place_sends_nothing():
    with a_server(as_json(a_flag())) as sent:
        async with an_async_client(requests_per_second=0.01) as client:
            await client.send(flags.get(1))
            task = asyncio.create_task(client.send(flags.get(1)))
            await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asyncio.wait_for(task, 1)
            assert len(sent) == 1


def test_other_exceptions_are_neither_repeated_nor_swallowed():
    def broken(_: httpx.Request) -> httpx.Response:
        raise RuntimeError("a bug, not a lost connection")

    outcome = send(flags.get(1), broken)
    assert type(outcome.error) is RuntimeError
    assert len(outcome.sent) == 1
    assert BASE


def test_a_client_of_the_way_down_makes_one_attempt():
    """The kill itself tries again, and says why; see its own tests."""
    with a_server(DOWN, as_json({})) as sent, a_client() as client:
        client._repeats = False
        with pytest.raises(AmplitudeServerError):
            client.send(flags.update("1", enabled=False))
    assert len(sent) == 1


def test_an_async_client_of_the_way_down_makes_one_attempt():
    async def once():
        async with an_async_client() as client:
            client._repeats = False
            await client.send(flags.update("1", enabled=False))

    with a_server(DOWN, as_json({})) as sent, pytest.raises(AmplitudeServerError):
        asyncio.run(once())
    assert len(sent) == 1
