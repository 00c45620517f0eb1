"""Over a real socket: answers that break off, servers that hang up, and connections that are given back."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import threading
import time
import warnings
from collections.abc import Callable

import pytest

from airflow_amplitude_experiment.api import (
    AmplitudeAuthError,
    AmplitudeConnectionError,
    AmplitudeError,
    AmplitudeUnexpectedAnswer,
    AsyncClient,
    Client,
    _exchange,
    flags,
)

from .builders import KEY, Waiting

FLAG = b'{"id": "1", "key": "k"}'
Said = bytes | Callable[[socket.socket], None]


def answer(content: bytes, *, status: str = "200 OK", length: int | None = None, more: str = "") -> bytes:
    length = len(content) if length is None else length
    return (
        f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n{more}\r\n".encode()
        + content
    )


class Server:
    """Says one thing per connection, the last one from then on; hangs up after each."""

    def __init__(self, *says: Said) -> None:
        self.says, self.requests, self.release = says, [], threading.Event()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._connections: list[socket.socket] = []
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Server:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.release.set()
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(10)
        for connection in self._connections:
            connection.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self._connections.append(connection)
            said = self.says[min(len(self.requests), len(self.says) - 1)]
            self.requests.append(_read_request(connection))
            try:
                said(connection) if callable(said) else connection.sendall(said)
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            connection.close()


def _read_request(connection: socket.socket) -> bytes:
    found = b""
    while b"\r\n\r\n" not in found:
        part = connection.recv(65536)
        if not part:
            return found
        found += part
    head, _, body = found.partition(b"\r\n\r\n")
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            while len(body) < int(line.split(b":")[1]):
                body += connection.recv(65536)
    return head + b"\r\n\r\n" + body


def reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    connection.close()


def a_client(server: Server, **options: object) -> Client:
    return Client(KEY, base_url=server.url, requests_per_second=None, timeout=5, **options)


def an_async_client(server: Server, **options: object) -> AsyncClient:
    return AsyncClient(KEY, base_url=server.url, requests_per_second=None, **{"timeout": 5} | options)


def both(call, *says: Said):
    """Return what both clients came to, and the number of requests of each."""
    outcomes = []
    for use in ("sync", "async"):
        with pytest.MonkeyPatch.context() as patch, Server(*says) as server:
            Waiting.installed(patch)
            try:
                value = _sync(server, call) if use == "sync" else asyncio.run(_async(server, call))
            except AmplitudeError as error:
                outcomes.append((error, len(server.requests)))
            else:
                outcomes.append((value, len(server.requests)))
    (first, sent), (second, sent_too) = outcomes
    assert (type(first), sent) == (type(second), sent_too)
    return first, sent


def _sync(server, call):
    with a_client(server) as client:
        return client.send(call)


async def _async(server, call):
    async with an_async_client(server) as client:
        return await client.send(call)


CUT = [
    answer(FLAG, length=100),
    answer(FLAG[:5], length=len(FLAG)),
    b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{"id\r\n',
    b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 8\r\n\r\nnot gzip",
]
NO_ANSWER = [b"", reset, b"HTTP/1.1 200", b"garbage\r\n\r\n", b"\x00" * 100, b"HTTP/1.1 200 OK\r\nContent-Le"]


@pytest.mark.parametrize("said", CUT, ids=["longer", "shorter", "chunked", "gzip"])
def test_an_answer_that_breaks_off_is_asked_for_again_when_reading(said):
    value, sent = both(flags.get(1), said, answer(FLAG))
    assert (value.id, sent) == ("1", 2)


@pytest.mark.parametrize("said", CUT, ids=["longer", "shorter", "chunked", "gzip"])
def test_a_write_whose_answer_breaks_off_may_have_been_applied_and_is_not_repeated(said):
    for call in (flags.update(1, rollout_percentage=5), flags.add_users(1, "on", ["a"])):
        error, sent = both(call, said)
        assert type(error) is AmplitudeUnexpectedAnswer
        assert (error.maybe_applied, error.status, sent) == (True, 200, 1)


@pytest.mark.parametrize(
    "said", NO_ANSWER, ids=["closed", "reset", "half a status", "garbage", "zeros", "half a header"]
)
def test_a_server_that_hangs_up_or_babbles_gave_no_answer(said):
    error, sent = both(flags.create(project_id=1, key="k"), said)
    assert type(error) is AmplitudeConnectionError
    assert (error.maybe_applied, error.status, sent) == (True, None, 1)
    value, sent = both(flags.get(1), said, said, answer(FLAG))
    assert (value.id, sent) == ("1", 3)


@pytest.mark.parametrize(
    "said", [answer(b"no", status="401 Unauthorized", length=100), b"HTTP/1.1 401 No\r\nContent-Length: 9\r\n\r\n"]
)
def test_an_error_that_breaks_off_is_still_that_error(said):
    error, sent = both(flags.update(1, enabled=False), said)
    assert (type(error), error.maybe_applied, sent) == (AmplitudeAuthError, False, 1)


def test_nobody_listening_applied_nothing():
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
    with pytest.MonkeyPatch.context() as patch, Client(KEY, base_url=url) as client:
        waiting = Waiting.installed(patch)
        with pytest.raises(AmplitudeConnectionError) as caught:
            client.send(flags.update(1, rollout_percentage=5))
    assert caught.value.maybe_applied is False
    assert [each for each in waiting.slept if each >= 0.5] == [0.5, 1.0, 2.0]


def test_a_late_answer_is_given_up_and_may_have_been_applied():
    def late(_: socket.socket) -> None:
        server.release.wait(5)

    with Server(late) as server, Client(KEY, base_url=server.url, timeout=0.1) as client:
        with pytest.raises(AmplitudeConnectionError, match="ReadTimeout") as caught:
            client.send(flags.update(1, rollout_percentage=5))
        assert len(server.requests) == 1
    assert caught.value.maybe_applied is True


def test_c4_a_delete_keeps_its_body_and_says_what_it_is():
    with Server(answer(b"OK")) as server, a_client(server) as client:
        client.send(flags.remove_cohorts(1, "on", ["1a2bc3d"]))
    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    assert head.startswith(b"DELETE /api/1/flags/1/variants/on/bulk-delete-cohorts HTTP/1.1\r\n")
    assert b"content-type: application/json" in head.lower()
    assert body.replace(b" ", b"") == b'{"users":["1a2bc3d"]}'


def test_a_call_without_a_body_sends_none():
    with Server(answer(b"OK")) as server, a_client(server) as client:
        client.send(flags.remove_all_users(1, "on"))
    assert server.requests[0].endswith(b"\r\n\r\n")
    assert b"content-type" not in server.requests[0].lower()


def test_a_proxy_with_a_path_and_a_key_with_slashes_arrive_as_written():
    with Server(answer(b"OK")) as server, Client(KEY, base_url=f"{server.url}/proxy/") as client:
        client.send(flags.delete_variant(1, "a/b?c=🎉 .."))
    line = server.requests[0].split(b"\r\n")[0]
    assert line == b"DELETE /proxy/api/1/flags/1/variants/a%2Fb%3Fc%3D%F0%9F%8E%89%20.. HTTP/1.1"


def test_a_redirect_is_not_followed_and_the_key_goes_nowhere():
    with Server(answer(FLAG)) as other:
        to = f"Location: {other.url}/api/1/flags/1\r\n"
        error, sent = both(flags.get(1), answer(b"", status="307 Temporary Redirect", more=to))
        assert (type(error), sent) == (AmplitudeUnexpectedAnswer, 1)
        assert other.requests == []


# --- what is left behind ---------------------------------------------------------------------------


def in_use(client: Client | AsyncClient) -> list[object]:
    return [each for each in client._http._transport._pool.connections if not each.is_idle()]


@pytest.mark.parametrize("said", [answer(FLAG), *CUT, *NO_ANSWER, answer(b"no", status="400 Bad"), answer(b"<html>")])
def test_no_connection_stays_in_use_whatever_was_answered(said):
    with pytest.MonkeyPatch.context() as patch, Server(said) as server, a_client(server) as client:
        Waiting.installed(patch)
        with contextlib.suppress(AmplitudeError):
            client.send(flags.get(1))
        assert in_use(client) == []


LONG = answer(b"x" * 60_000, status="400 Bad", length=1_000_000)


def test_an_error_page_without_an_end_gives_its_connection_back_at_once():
    def go_on(connection: socket.socket) -> None:
        connection.sendall(LONG)
        server.release.wait(5)

    with Server(go_on) as server, a_client(server) as client:
        with pytest.raises(AmplitudeError) as caught:
            client.send(flags.get(1))
        assert in_use(client) == []
        assert caught.value.status == 400


async def test_an_error_page_without_an_end_gives_its_connection_back_at_once_in_async_code():
    def go_on(connection: socket.socket) -> None:
        connection.sendall(LONG)
        server.release.wait(5)

    with Server(go_on) as server:
        async with an_async_client(server) as client:
            with pytest.raises(AmplitudeError) as caught:
                await client.send(flags.get(1))
            assert in_use(client) == []
            assert caught.value.status == 400


async def _until(true: Callable[[], object]) -> None:
    end = time.monotonic() + 5
    while not true():
        assert time.monotonic() < end
        await asyncio.sleep(0.005)


@pytest.mark.parametrize("part", [b"", answer(FLAG, length=100)], ids=["before the status", "in the body"])
async def test_cancelling_while_sending_comes_through_at_once_and_leaks_no_connection(part):
    def hang(connection: socket.socket) -> None:
        connection.sendall(part)
        server.release.wait(5)

    with warnings.catch_warnings(), Server(hang) as server:
        warnings.simplefilter("error", ResourceWarning)
        async with an_async_client(server) as client:
            task = asyncio.create_task(client.send(flags.get(1)))
            await _until(lambda: server.requests)
            await asyncio.sleep(0.02)
            task.cancel()
            begun = time.monotonic()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert time.monotonic() - begun < 0.5
            assert in_use(client) == []
        assert len(server.requests) == 1
        gc.collect()


async def test_a_deadline_around_a_call_is_kept():
    def hang(_: socket.socket) -> None:
        server.release.wait(5)

    with Server(hang) as server:
        async with an_async_client(server) as client:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(client.send(flags.get(1)), 0.05)
            assert in_use(client) == []


def test_a_keyboard_interrupt_in_the_middle_of_an_answer_leaks_no_connection(monkeypatch):
    from airflow_amplitude_experiment.api._exchange import Exchange

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Exchange, "keep", interrupt)
    with Server(answer(FLAG)) as server, a_client(server) as client:
        with pytest.raises(KeyboardInterrupt):
            client.send(flags.get(1))
        assert in_use(client) == []
        assert len(server.requests) == 1


def test_a_connection_is_kept_between_calls():
    """One httpx client, one connection: a thousand calls don't shake a thousand hands."""
    connections = []

    def keep_alive(connection: socket.socket) -> None:
        connections.append(1)
        for _ in range(2):
            connection.sendall(answer(FLAG))
            _read_request(connection)
        connection.sendall(answer(FLAG))

    with Server(keep_alive) as server, a_client(server) as client:
        for _ in range(3):
            client.send(flags.get(1))
    assert len(connections) == 1


@pytest.mark.parametrize("send", ["sync", "async"])
def test_an_answer_that_drips_for_ever_ends(monkeypatch, send):
    """Each part comes in time, so the client's timeout never ends it."""
    monkeypatch.setattr(_exchange, "SLOWEST_ANSWER", 0.3)

    def drip(connection: socket.socket) -> None:
        connection.sendall(answer(b"{", length=10_000))
        with contextlib.suppress(OSError):
            for _ in range(100):
                connection.sendall(b" ")
                time.sleep(0.05)

    def synchronously(url: str) -> None:
        with Client(KEY, base_url=url, timeout=2) as client:
            client.send(flags.update("1", name="x"))

    async def asynchronously(url: str) -> None:
        async with AsyncClient(KEY, base_url=url, timeout=2) as client:
            await client.send(flags.update("1", name="x"))

    with Server(drip) as server, pytest.raises(AmplitudeUnexpectedAnswer, match="broke off") as error:
        synchronously(server.url) if send == "sync" else asyncio.run(asynchronously(server.url))
    assert error.value.maybe_applied is True
