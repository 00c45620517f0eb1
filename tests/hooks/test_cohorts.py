"""Behavioral cohorts through the hook: what is asked, what refusals say, and a file that is streamed past secrets."""

from __future__ import annotations

import json
import logging
import pickle
import threading
import traceback
import tracemalloc
from base64 import b64encode
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
import respx

from airflow_amplitude_experiment.api import (
    AmplitudeConnectionError,
    AmplitudeError,
    AmplitudeNotFound,
    AmplitudeRateLimited,
    AmplitudeServerError,
    AmplitudeUnexpectedAnswer,
    _retry,
)
from airflow_amplitude_experiment.api.errors import error_from_dict
from airflow_amplitude_experiment.emulator import Emulator
from airflow_amplitude_experiment.hooks import AmplitudeAnalyticsHook
from airflow_amplitude_experiment.hooks import _cohort_request as request
from airflow_amplitude_experiment.hooks._analytics_errors import (
    AT_ONCE,
    COHORT,
    MONTH,
    PARALLEL,
    TEN_MINUTES,
    UNNAMED,
    CohortRateLimited,
    with_own_advice,
)
from airflow_amplitude_experiment.hooks._analytics_reading import Unreadable
from airflow_amplitude_experiment.hooks._cohort_file import LOUD, Rows

API_KEY, SECRET = "0a1b2c3d4e5f-api-key", "9f8e7d6c5b4a-SECRET-KEY"
BASIC = b64encode(f"{API_KEY}:{SECRET}".encode()).decode()
SIGNATURE = "X-Amz-Signature=5ecre7516na7ure"
COHORT_ID = "hmzct8qe"
FILE = b'"amplitude_id","user_id"\n"1","anna"\n"2",""\n'


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_retry, "FIRST_WAIT", 0.002)
    monkeypatch.setattr(_retry, "LONGEST_WAIT", 0.002)


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Callable[[str | None], AmplitudeAnalyticsHook]:
    """Return a hook that leads to a host, by default Amplitude's own."""

    def make(host: str | None = None) -> AmplitudeAnalyticsHook:
        form = {"conn_type": "amplitude_analytics", "login": API_KEY, "password": SECRET, "host": host}
        monkeypatch.setenv("AIRFLOW_CONN_COHORTS", json.dumps(form))
        return AmplitudeAnalyticsHook("cohorts")

    return make


@pytest.fixture
def amplitude(emulator: Emulator) -> Emulator:
    """The emulator with our keys and a cohort of two."""
    project = {"id": emulator.project_id, "apiKey": API_KEY, "secretKey": SECRET}
    emulator.seed({"projects": [project], "cohorts": [{"id": COHORT_ID, "name": "Beta", "users": ["anna", "ben"]}]})
    emulator.options(cohort_looks=0)
    return emulator


def whole(parts: Iterator[bytes]) -> bytes:
    return b"".join(parts)


def rows(*parts: bytes) -> list[list[str]]:
    return list(Rows(iter(parts)))


def answering(status: int, body: Any, **headers: str) -> httpx.Response:
    return httpx.Response(status, json=body, headers=headers)


# --- what is asked -----------------------------------------------------------------------------------


@respx.mock
def test_the_list_is_of_id_name_and_size(hook: Any) -> None:
    cohort = {"id": COHORT_ID, "name": "Beta", "size": 7, "definition": {}, "appId": 1}
    respx.get("https://amplitude.com/api/3/cohorts").mock(return_value=answering(200, {"cohorts": [cohort]}))
    assert hook().cohorts() == [{"id": COHORT_ID, "name": "Beta", "size": 7}]


@pytest.mark.parametrize(
    ("props", "query"),
    [(False, "props=0"), (True, "props=1"), (["plan", "city"], "props=1&propKeys=plan&propKeys=city")],
)
@respx.mock
def test_an_export_is_asked_for_with_the_properties_that_are_wanted(props: Any, query: str, hook: Any) -> None:
    route = respx.get(path=f"/api/5/cohorts/request/{COHORT_ID}")
    route.mock(return_value=answering(202, {"request_id": "r1", "cohort_id": COHORT_ID}))
    assert hook().request_cohort(COHORT_ID, props=props) == "r1"
    assert route.calls.last.request.url.query.decode() == query
    assert route.calls.last.request.headers["authorization"] == f"Basic {BASIC}"


@pytest.mark.parametrize("given", ["", "a b", "../charts", 7, None])
def test_what_can_be_no_cohort_id_is_not_sent(given: Any, hook: Any) -> None:
    with pytest.raises(ValueError, match="last part of the cohort's address"):
        hook().request_cohort(given)


def test_an_address_is_told_apart_from_the_id_in_it(hook: Any) -> None:
    with pytest.raises(ValueError, match=f"'{COHORT_ID}' may be meant"):
        hook().request_cohort(f"https://app.amplitude.com/analytics/acme/cohort/{COHORT_ID}")


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("JOB INPROGRESS", request.IN_PROGRESS),
        ("job in_progress", request.IN_PROGRESS),
        ("JOB COMPLETED", request.COMPLETED),
        ("JOB FAILED", "JOB FAILED"),
    ],
)
@respx.mock
def test_the_status_is_what_is_said_of_the_job(said: str, meant: str, hook: Any) -> None:
    respx.get(path="/api/5/cohorts/request-status/r1").mock(return_value=answering(202, {"async_status": said}))
    assert hook().cohort_status("r1") == meant


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"request_id": ""},
        {"request_id": "a/b"},
        {"request_id": True},
        {"request_id": "r", "cohort_id": "x"},
        [],
        "r",
    ],
)
@respx.mock
def test_an_answer_without_an_export_of_this_cohort_is_an_error(body: Any, hook: Any) -> None:
    respx.get(path=f"/api/5/cohorts/request/{COHORT_ID}").mock(return_value=answering(202, body))
    with pytest.raises(AmplitudeUnexpectedAnswer, match=r"may count .* not how Amplitude answers for a cohort"):
        hook().request_cohort(COHORT_ID)


@pytest.mark.parametrize("body", [{}, {"cohorts": {}}, {"cohorts": [{"name": "no id"}]}, []])
@respx.mock
def test_an_answer_that_is_no_list_of_cohorts_is_an_error(body: Any, hook: Any) -> None:
    respx.get(path="/api/3/cohorts").mock(return_value=answering(200, body))
    with pytest.raises(AmplitudeUnexpectedAnswer):
        hook().cohorts()


@respx.mock
def test_the_usage_of_the_month(hook: Any) -> None:
    told = {"rest_download": {"limit": 500, "usage": 3, "resets_at": "2026-12-01"}}
    respx.get(path="/api/3/cohorts/usage").mock(return_value=answering(200, told))
    assert hook().cohort_usage() == (3, 500, "2026-12-01")


# --- an export is asked for once ---------------------------------------------------------------------


@pytest.mark.parametrize("status", [429, 500, 503])
@respx.mock
def test_an_export_that_may_have_been_counted_is_not_asked_for_again(status: int, hook: Any) -> None:
    route = respx.get(path=f"/api/5/cohorts/request/{COHORT_ID}").mock(return_value=httpx.Response(status))
    with pytest.raises((AmplitudeRateLimited, AmplitudeServerError)):
        hook().request_cohort(COHORT_ID)
    assert route.call_count == 1


@respx.mock
def test_neither_is_one_whose_answer_got_lost_and_the_error_says_so(hook: Any) -> None:
    route = respx.get(path=f"/api/5/cohorts/request/{COHORT_ID}").mock(side_effect=httpx.ReadTimeout)
    with pytest.raises(AmplitudeConnectionError, match="may count as one of the month's downloads"):
        hook().request_cohort(COHORT_ID)
    assert route.call_count == 1


@respx.mock
def test_one_that_can_not_have_arrived_is(hook: Any) -> None:
    answers = [httpx.ConnectError("refused"), answering(202, {"request_id": "r1"})]
    route = respx.get(path=f"/api/5/cohorts/request/{COHORT_ID}").mock(side_effect=answers)
    assert hook().request_cohort(COHORT_ID) == "r1"
    assert route.call_count == 2


@respx.mock
def test_a_look_is_repeated_where_it_fails_in_passing(hook: Any) -> None:
    answers = [httpx.Response(503), httpx.ReadTimeout, answering(200, {"async_status": "JOB COMPLETED"})]
    route = respx.get(path="/api/5/cohorts/request-status/r1").mock(side_effect=answers)
    assert hook().cohort_status("r1") == request.COMPLETED
    assert route.call_count == 3


# --- limits ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "limit", "says"),
    [
        ("Monthly limit of 500 cohort downloads exceeded.", MONTH, "first of next month"),
        ("500 requests", MONTH, "costs no download"),
        ("You have exceeded your quota", UNNAMED, "doesn't say which limit"),
        ("Limit of 4 parallel cohort requests per minute exceeded.", PARALLEL, "Try again in 1 min"),
        ("Rate limit of 60 cohort requests per 10 minutes exceeded.", TEN_MINUTES, "Try again in 10 min"),
        ("Concurrent limit of 5 requests exceeded.", AT_ONCE, "over cohort downloads and the Dashboard REST API"),
        ("Too many requests", UNNAMED, "doesn't say which limit"),
    ],
)
@respx.mock
def test_a_limit_is_told_apart_and_explained(text: str, limit: Any, says: str, hook: Any) -> None:
    respx.get(path=f"/api/5/cohorts/request/{COHORT_ID}").mock(return_value=httpx.Response(429, text=text))
    with pytest.raises(CohortRateLimited, match=says) as error:
        hook().request_cohort(COHORT_ID)
    assert error.value.limit is limit
    assert error.value.wait == limit.wait
    assert "100 requests a second" not in str(error.value)


@respx.mock
def test_a_wait_that_amplitude_names_is_kept(hook: Any) -> None:
    refusal = httpx.Response(429, text="Concurrent limit of 5", headers={"Retry-After": "240"})
    respx.get(path=f"/api/5/cohorts/request/{COHORT_ID}").mock(return_value=refusal)
    with pytest.raises(CohortRateLimited, match="Try again in 4 min"):
        hook().request_cohort(COHORT_ID)


@pytest.mark.parametrize(
    ("status", "says"),
    [
        (400, "Check the cohort's id"),
        (401, r"API key \(login\) and secret key \(password\)"),
        (403, "project that owns the cohort"),
        (404, "cohort is discoverable .* downloaded for 7 days"),
    ],
)
@respx.mock
def test_every_error_says_what_to_do_about_a_cohort(status: int, says: str, hook: Any) -> None:
    respx.get(path="/api/5/cohorts/request-status/r1").mock(return_value=httpx.Response(status, text="because"))
    with pytest.raises(AmplitudeError, match=says) as error:
        hook().cohort_status("r1")
    assert "chart" not in str(error.value)


def test_an_error_travels_as_the_one_that_everybody_knows() -> None:
    error = with_own_advice(AmplitudeRateLimited("month", status=429), COHORT)
    for again in (error_from_dict(error.as_dict()), pickle.loads(pickle.dumps(error))):
        assert type(again) is AmplitudeRateLimited
        assert type(with_own_advice(again, COHORT)) is CohortRateLimited


# --- the file ----------------------------------------------------------------------------------------


class Storage:
    """A server of its own that stands for the storage behind Amplitude, and keeps the headers that it was sent."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.answers: list[tuple[int, list[bytes]]] = []
        self.cut = 0
        storage = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                storage.asked.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
                many = len(storage.answers) > 1
                status, parts = storage.answers.pop(0) if many else storage.answers[0]
                short, storage.cut = (1, storage.cut - 1) if storage.cut else (0, 0)
                self.send_response(status)
                self.send_header("Content-Length", str(sum(map(len, parts)) + short))
                self.end_headers()
                for part in parts:
                    self.wfile.write(part)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.link = f"http://127.0.0.1:{self.server.server_port}/bucket/file.csv?{SIGNATURE}"


@pytest.fixture
def storage() -> Iterator[Storage]:
    one = Storage()
    one.answers = [(200, [FILE])]
    thread = threading.Thread(target=one.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield one
    one.server.shutdown()
    thread.join()
    one.server.server_close()


@pytest.fixture
def redirected(amplitude: Emulator, storage: Storage, hook: Any) -> Callable[..., Any]:
    """Download a file to which Amplitude answers with a link to the storage."""
    amplitude.fault("redirect", path="*/file", location=storage.link, times=None)
    return lambda take=whole: hook(amplitude.url).download_cohort("r1", take)


def test_the_file_of_a_small_cohort_is_the_answer(amplitude: Emulator, hook: Any) -> None:
    mine = hook(amplitude.url)
    request_id = mine.request_cohort(COHORT_ID)
    assert mine.cohort_status(request_id) == request.COMPLETED
    assert [row[1] for row in rows(mine.download_cohort(request_id, whole))] == ["anna", "ben"]


def test_the_file_of_a_large_cohort_is_behind_a_link_that_refuses_our_keys(amplitude: Emulator, hook: Any) -> None:
    amplitude.options(cohort_inline=0)
    mine = hook(amplitude.url)
    request_id = mine.request_cohort(COHORT_ID)
    mine.cohort_status(request_id)
    assert [row[1] for row in rows(mine.download_cohort(request_id, whole))] == ["anna", "ben"]
    assert [each["status"] for each in amplitude.requests()] == [202, 200, 302, 200]


def test_a_link_is_followed_once_without_any_of_our_headers(redirected: Any, storage: Storage) -> None:
    assert redirected() == FILE
    ((path, headers),) = storage.asked
    assert path.endswith(SIGNATURE)
    assert "authorization" not in headers
    assert "cookie" not in headers
    assert BASIC not in str(headers)


def test_a_file_that_breaks_off_is_had_again_from_its_beginning_with_a_new_link(
    redirected: Any, storage: Storage, amplitude: Emulator
) -> None:
    storage.cut = 2
    assert redirected() == FILE
    assert len(storage.asked) == 3
    assert [each["status"] for each in amplitude.requests()] == [302, 302, 302]


def test_a_link_that_has_expired_is_replaced(redirected: Any, storage: Storage) -> None:
    expired = b"<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>"
    storage.answers = [(403, [expired]), (200, [FILE])]
    assert redirected() == FILE


def test_a_link_that_leads_to_another_link_is_not_followed_further(redirected: Any, storage: Storage) -> None:
    storage.answers = [(307, [b""])]
    with pytest.raises(AmplitudeUnexpectedAnswer, match="the link to the file answered 307"):
        redirected()


@respx.mock
def test_where_amplitude_is_encrypted_its_link_has_to_be_too(hook: Any) -> None:
    there = httpx.Response(302, headers={"Location": f"http://storage/?{SIGNATURE}"})
    respx.get("https://amplitude.com/api/5/cohorts/request/r1/file").mock(return_value=there)
    with pytest.raises(AmplitudeUnexpectedAnswer, match="not encrypted"):
        hook().download_cohort("r1", whole)


def test_what_the_reader_of_a_file_raises_ends_the_download(redirected: Any, storage: Storage) -> None:
    def refuse(parts: Iterator[bytes]) -> None:
        next(parts)
        raise ValueError("enough")

    with pytest.raises(ValueError, match="enough"):
        redirected(refuse)
    assert len(storage.asked) == 1


def test_an_export_that_is_gone_is_not_found(amplitude: Emulator, hook: Any) -> None:
    with pytest.raises(AmplitudeNotFound):
        hook(amplitude.url).download_cohort("nope", whole)


def test_a_web_page_is_no_cohort(redirected: Any, storage: Storage) -> None:
    storage.answers = [(200, [b"<!DOCTYPE html><title>Sign in</title>"])]
    with pytest.raises(AmplitudeUnexpectedAnswer, match="doesn't begin with the names"):
        redirected(lambda parts: list(Rows(parts)))
    assert len(storage.asked) == 1


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_rows_are_the_same_however_the_file_is_cut_into_parts(size: int) -> None:
    text = '\ufeff"amplitude_id","user_id"\r\n"1","a,""b""\nc"\r\n"2","😀é"\r\n'.encode()
    assert rows(*(text[at : at + size] for at in range(0, len(text), size))) == [["1", 'a,"b"\nc'], ["2", "😀é"]]


@pytest.mark.parametrize("text", [b"", b"a,b\n1,2\n", FILE + b'"3"\n', FILE + b'"3","x', FILE + b'"3","\xff"\n'])
def test_what_is_no_whole_cohort_is_refused_and_not_quoted(text: bytes) -> None:
    with pytest.raises(Unreadable) as error:
        rows(text)
    assert "anna" not in str(error.value)


def peak_of(users: int, redirected: Any, storage: Storage) -> int:
    part = b"".join(b'"%d","user-%d@example.com"\n' % (each, each) for each in range(1000))
    storage.answers = [(200, [FILE, *[part] * (users // 1000)])]

    def count(parts: Iterator[bytes]) -> int:
        tracemalloc.start()
        found = sum(1 for _ in Rows(parts))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert found == users + 2
        return peak

    return int(redirected(count))


def test_a_hundred_times_the_users_take_no_more_memory(redirected: Any, storage: Storage) -> None:
    few, many = peak_of(2_000, redirected, storage), peak_of(200_000, redirected, storage)
    print(f"peak for 2,000 users {few:,} bytes, for 200,000 {many:,} bytes, ratio {many / few:.2f}")
    assert many < few + 2_000_000  # the larger file has 8 MB


# --- secrets are nowhere (law 8) ---------------------------------------------------------------------


@pytest.fixture
def loud(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    """Let the HTTP libraries log all they can, whatever Airflow's settings say of them."""
    for name in ("", *LOUD):
        caplog.set_level(logging.DEBUG, logger=name)
        monkeypatch.setattr(logging.getLogger(name), "disabled", False)
    return caplog


LEAKY = f"<Error><Code>SignatureDoesNotMatch</Code><StringToSign>{SIGNATURE}</StringToSign></Error>".encode()


@pytest.mark.parametrize("answer", [(200, [FILE]), (403, [LEAKY]), (500, [LEAKY]), (200, [b"nonsense " + LEAKY])])
def test_neither_the_link_nor_a_key_is_in_a_log_or_an_error(
    answer: Any, redirected: Any, storage: Storage, loud: pytest.LogCaptureFixture
) -> None:
    storage.answers = [answer]
    shown = ""
    try:
        redirected(lambda parts: list(Rows(parts)))
    except AmplitudeError as error:
        shown = "".join(traceback.format_exception(error)) + str(error.as_dict())
    shown += "".join(f"{each.getMessage()} {each.args}" for each in loud.records)
    assert storage.asked
    for secret in (SIGNATURE, "5ecre7516na7ure", SECRET, BASIC):
        assert secret not in shown


def test_a_storage_that_does_not_answer_is_an_error_without_its_link(
    amplitude: Emulator, hook: Any, loud: pytest.LogCaptureFixture
) -> None:
    amplitude.fault("redirect", path="*/file", location=f"http://127.0.0.1:9/?{SIGNATURE}", times=None)
    with pytest.raises(AmplitudeUnexpectedAnswer, match=r"does not answer \(ConnectError\)") as error:
        hook(amplitude.url).download_cohort("r1", whole)
    assert SIGNATURE not in "".join(traceback.format_exception(error.value)) + loud.text


def test_the_logs_of_others_go_on(redirected: Any, loud: pytest.LogCaptureFixture) -> None:
    def log_beside(parts: Iterator[bytes]) -> bytes:
        logging.getLogger("httpx").info("still here")
        return whole(parts)

    redirected(log_beside)
    assert "still here" in loud.text


def test_airflow_masks_the_link(redirected: Any, storage: Storage) -> None:
    from airflow.sdk._shared.secrets_masker import redact

    redirected()
    assert SIGNATURE not in str(redact(f"see {storage.link}"))
