"""A client: what it may be made of, the pace it keeps, and how it ends."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
import sys
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest

from airflow_amplitude_experiment.api import AsyncClient, Client, _client, flags
from airflow_amplitude_experiment.api._client import HOSTS, Pace

from .builders import BASE, KEY, a_client, a_flag, a_page, a_server, an_async_client, as_json, as_text, by_sync, send

CLIENTS = [Client, AsyncClient]


# --- settings --------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", CLIENTS)
@pytest.mark.parametrize(
    ("options", "host"),
    [
        ({}, "https://experiment.amplitude.com"),
        ({"region": "eu"}, "https://experiment.eu.amplitude.com"),
        ({"dialect": "beta"}, "https://management-api.experiment.amplitude.com"),
        ({"dialect": "beta", "region": "eu"}, "https://management-api.experiment.eu.amplitude.com"),
        ({"base_url": "https://EXPERIMENT.amplitude.com:443/", "region": "eu"}, "https://experiment.amplitude.com"),
        ({"base_url": "https://experiment.amplitude.com/api/1/"}, "https://experiment.amplitude.com"),
        ({"base_url": ""}, "https://experiment.amplitude.com"),
        ({"base_url": None}, "https://experiment.amplitude.com"),
    ],
)
def test_region_and_dialect_name_the_host(cls, options, host):
    client = cls(KEY, **options)
    assert client.base_url == host
    assert client.speaks_to_amplitude


@pytest.mark.parametrize(
    ("given", "path"),
    [("http://h", "/api/1/flags/1"), ("http://h/", "/api/1/flags/1"), ("http://h/api/1", "/api/1/flags/1"),
     ("http://h/amplitude", "/amplitude/api/1/flags/1"), ("http://h/amplitude/api/1/", "/amplitude/api/1/flags/1"),
     (" http://h:8080//", "/api/1/flags/1"), ("http://h/a%20b", "/a%20b/api/1/flags/1"),
     ("http://h/ü", "/%C3%BC/api/1/flags/1")],
)  # fmt: skip
def test_a_base_url_may_be_a_proxy_with_a_path(given, path):
    outcome = send(flags.get(1), as_json(a_flag()), base_url=given)
    assert outcome.only.path == path
    assert not a_client(base_url=given).speaks_to_amplitude


def test_the_beta_has_no_path_prefix():
    assert send(flags.get(1), as_json(a_flag()), dialect="beta", base_url="http://h/p").only.path == "/p/flags/1"


@pytest.mark.parametrize("cls", CLIENTS)
@pytest.mark.parametrize(
    "base_url",
    ["experiment.amplitude.com", "ftp://h", "http://", "http://u:hush@h", "ftp://u:hush@h", "u:hush@h", "http://h?x=hush",
     "http://h#x", "http://h:99999", "http://h:0", "http://h:port", "http://[::1", "http://a b",
     "http://h\n.test", "/only/path", " "],
)  # fmt: skip
def test_a_base_url_that_is_none_is_refused_without_its_password(cls, base_url):
    with pytest.raises(ValueError, match="base_url") as caught:
        cls(KEY, base_url=base_url)
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize("cls", CLIENTS)
@pytest.mark.parametrize(
    "key",
    ["", " ", "with space", "line\n", "\nline", "tab\t", "nül", "nul\x00", "del\x7f", None, 5, b"bytes", "a\u200bb"],
    ids=repr,
)
def test_a_key_that_no_header_can_hold_is_refused_and_not_shown(cls, key):
    with pytest.raises(ValueError, match="management key") as caught:
        cls(key)
    assert not key or str(key) not in str(caught.value) or key == " "


@pytest.mark.parametrize("cls", CLIENTS)
@pytest.mark.parametrize(
    "options",
    [{"region": "us-east"}, {"region": "EU"}, {"region": None}, {"dialect": "v2"}, {"dialect": None}]
    + [{"timeout": value} for value in (0, -1, float("nan"), float("inf"), "30", None, True)]
    + [{"requests_per_second": value} for value in (0, -1, float("nan"), float("inf"), "5", True)],
    ids=repr,
)
def test_a_setting_that_can_not_be_meant_is_refused(cls, options):
    with pytest.raises(ValueError, match=next(iter(options))):
        cls(KEY, **options)


@pytest.mark.parametrize("cls", CLIENTS)
@pytest.mark.parametrize(
    ("name", "value"),
    [("HTTPS_PROXY", "gopher://user:hush@proxy.test:1"), ("ALL_PROXY", "http://user:hush@proxy.test:port"),
     ("SSL_CERT_FILE", "/no/such/file.pem"), ("HTTPS_PROXY", "socks5://user:hush@proxy.test:1")],
)  # fmt: skip
def test_proxy_or_tls_settings_that_can_not_be_used_are_told_without_their_password(cls, name, value, monkeypatch):
    for each in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "SSL_CERT_FILE"):
        monkeypatch.delenv(each, raising=False)
        monkeypatch.delenv(each.lower(), raising=False)
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="proxy or TLS settings") as caught:
        cls(KEY)
    shown = f"{caught.value!r} {caught.value.__cause__!r}"
    assert KEY not in shown
    assert "hush" not in shown


@pytest.mark.parametrize("cls", CLIENTS)
def test_certificates_are_read_once_for_all_clients(cls, monkeypatch):
    cls(KEY)
    monkeypatch.setattr(ssl.SSLContext, "load_verify_locations", None)  # the 20 to 50 ms that each would cost
    cls(KEY)


@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
@pytest.mark.parametrize("cls", CLIENTS)
def test_certificates_that_the_environment_names_are_taken_also_after_others_were_read(
    cls, name, monkeypatch, tmp_path
):
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)
    cls(KEY)
    read = []
    monkeypatch.setattr(ssl.SSLContext, "load_verify_locations", lambda _, *given: read.append(given))
    monkeypatch.setenv(name, str(tmp_path))
    cls(KEY)
    assert [str(tmp_path) in given for given in read] == [True]


# --- closing ---------------------------------------------------------------------------------------


def test_a_client_is_closed_with_its_block_and_says_so_when_used_again():
    with a_server(as_json(a_flag())) as sent:
        with a_client() as client:
            client.send(flags.get(1))
        assert client._http.is_closed
        with pytest.raises(RuntimeError, match="closed"):
            client.send(flags.get(1))
        client.close()
        assert len(sent) == 1


async def test_an_async_client_is_closed_with_its_block_and_says_so_when_used_again():
    with a_server(as_json(a_flag())) as sent:
        async with an_async_client() as client:
            await client.send(flags.get(1))
        assert client._http.is_closed
        with pytest.raises(RuntimeError, match="closed"):
            await client.send(flags.get(1))
        await client.close()
        assert len(sent) == 1


def test_a_client_is_closed_when_its_block_fails():
    with pytest.raises(KeyError), a_client() as client:
        raise KeyError
    assert client._http.is_closed


# --- pace ------------------------------------------------------------------------------------------


def test_a_client_keeps_under_its_requests_per_second(waiting):
    times = []

    def answer(_):
        times.append(waiting.now)
        return as_json(a_flag())

    with a_server(answer), a_client(requests_per_second=5) as client:
        for _ in range(26):
            client.send(flags.get(1))
    assert times[-1] - times[0] == pytest.approx(5.0)
    assert min(later - earlier for earlier, later in pairwise(times)) == pytest.approx(0.2)


async def test_an_async_client_keeps_its_pace_over_tasks_at_once(waiting):
    times = []
    waiting_for = []

    def answer(_):
        return as_json(a_flag())

    reserve = Pace.reserve

    class Watched(Pace):
        def reserve(self):
            waiting_for.append(reserve(self))
            times.append(waiting.now)
            return 0.0

    with a_server(answer):
        async with an_async_client(requests_per_second=5) as client:
            client._pace = Watched(5)
            await asyncio.gather(*(client.send(flags.get(1)) for _ in range(11)))
    assert sorted(waiting_for) == pytest.approx([each * 0.2 for each in range(11)])


def test_pages_and_repeats_count_for_the_pace(waiting):
    pages = [a_page("flags", a_flag(id=1), cursor=1), as_text("down", 503), a_page("flags", a_flag(id=2))]
    with a_server(*pages) as sent, a_client(requests_per_second=0.1) as client:
        assert len(list(client.iterate(flags.list()))) == 2
    assert len(sent) == 3
    assert waiting.now - 1000.0 == pytest.approx(20.0)


def test_a_client_that_was_idle_does_not_burst(waiting):
    with a_server(as_json(a_flag())), a_client(requests_per_second=5) as client:
        client.send(flags.get(1))
        waiting.now += 100
        waiting.slept.clear()
        for _ in range(3):
            client.send(flags.get(1))
    assert waiting.slept == pytest.approx([0.2, 0.2])


async def test_requests_that_are_given_up_while_they_wait_for_their_turn_slow_no_later_ones(waiting, monkeypatch):
    async def given_up(_):
        raise asyncio.CancelledError

    sleep = _client.asyncio.sleep
    with a_server(as_json(a_flag())):
        async with an_async_client(requests_per_second=5) as client:
            await client.send(flags.get(1))
            monkeypatch.setattr(_client.asyncio, "sleep", given_up)
            for _ in range(4):
                with pytest.raises(asyncio.CancelledError):
                    await client.send(flags.get(1))
            monkeypatch.setattr(_client.asyncio, "sleep", sleep)
            waiting.now = began = 2000.0
            for _ in range(11):
                await client.send(flags.get(1))
    assert waiting.now - began == pytest.approx(2.0)


def test_a_pace_beyond_any_limit_takes_no_memory_for_it():
    tracemalloc.start()
    try:
        Pace(1e6)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_five_requests_a_second_is_the_default():
    assert Client(KEY)._pace._interval == 0.2
    assert AsyncClient(KEY)._pace._interval == 0.2


def test_threads_that_share_a_client_share_its_pace(waiting):
    pace, together = Pace(10), threading.Barrier(8)

    def reserve(_):
        together.wait()
        return [pace.reserve() for _ in range(50)]

    with ThreadPoolExecutor(8) as threads:
        places = sorted(place for each in threads.map(reserve, range(8)) for place in each)
    assert places == pytest.approx([number * 0.1 for number in range(400)])


def test_threads_can_share_a_client():
    with a_server(as_json(a_flag())) as sent, a_client() as client, ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda number: client.send(flags.get(number)), range(1, 65)))
    assert len(found) == len(sent) == 64


# --- what loads what -------------------------------------------------------------------------------


def test_naming_a_call_loads_neither_the_client_nor_the_models_nor_airflow():
    code = (
        "import sys\n"
        "from airflow_amplitude_experiment.api import flags, experiments, Call, AmplitudeError, RolloutRefused\n"
        "flags.update(1, rollout_percentage=5)\n"
        "names = {'httpx', 'pydantic', 'tenacity', 'airflow', 'airflow_amplitude_experiment.api.models'}\n"
        "assert not names & set(sys.modules), names & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_api_exports_what_the_design_names():
    from airflow_amplitude_experiment import api

    assert {
        "Client",
        "AsyncClient",
        "Call",
        "experiments",
        "flags",
        "mutexes",
        "holdouts",
        "deployments",
        "versions",
    } <= set(api.__all__)
    assert all(getattr(api, name) for name in api.__all__)
    assert set(api.__all__) <= set(dir(api))
    with pytest.raises(AttributeError, match="no attribute 'nope'"):
        api.nope  # noqa: B018


def test_a_client_sends_only_to_its_own_host():
    assert by_sync(flags.get(1), as_json(a_flag())).error is None
    assert BASE not in HOSTS.values()
    assert _client.PREFIX == {"v1": "/api/1", "beta": ""}
