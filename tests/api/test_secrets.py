"""The management key and the people are nowhere: no text, no log, no attribute, no pickle shows them."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import pickle
import socket
import threading
import traceback

import httpx
import pytest

from airflow_amplitude_experiment.api import (
    AmplitudeConnectionError,
    AmplitudeError,
    AmplitudeUnexpectedAnswer,
    AsyncClient,
    Client,
    flags,
    holdouts,
    mutexes,
)

from .builders import KEY, a_client, a_server, as_json, as_text, failure, send

PEOPLE = ["alice@example.com", "bob.o'neil+x@example.com", "ünal", "device-77"]
ALL_TOLD = as_text(f"Bearer {KEY} is bad", 401)


def everything(error: BaseException) -> str:
    """All that a log or a colleague could see of an error."""
    plain = [repr(error), str(error), repr(vars(error)), repr(error.args), repr(error.__cause__)]
    if isinstance(error, AmplitudeError):
        plain += [json.dumps(error.as_dict()), str(pickle.dumps(error))]
    return "\n".join([*plain, *traceback.format_exception(error)])


def variables(error: BaseException) -> str:
    """What a traceback with the variables of every frame shows, those of the tests left out."""
    lines = traceback.TracebackException.from_exception(error, capture_locals=True).format()
    return "\n".join(line for line in lines if "/tests/api/" not in line)


@pytest.mark.parametrize(
    "answer",
    [
        ALL_TOLD,
        as_json({"message": f"unknown key {KEY}"}, 403),
        as_json({"error": {"authorization": f"Bearer {KEY}"}}, 400),
        as_text(f"<html>{KEY}</html>", 502),
        as_text("", 302, location=f"https://elsewhere.test/?key={KEY}"),
        as_text(KEY),
        as_json({KEY: 1}),
        as_json({"id": 1, "key": "k", "targetSegments": [{"rolloutWeights": {KEY: "x"}}]}),
        as_text("x" * 495 + KEY, 400),
        httpx.ConnectError(f"can't reach {KEY}"),
        httpx.RemoteProtocolError(f"illegal header line: bytearray(b'authorization {KEY}')"),
        httpx.ReadError(""),
    ],
    ids=range(12),
)
def test_no_error_shows_the_key_even_if_the_server_does(answer):
    error = failure(flags.get(1), answer)
    assert isinstance(error, AmplitudeError)
    assert KEY not in everything(error)


@pytest.mark.parametrize(
    "answer", [as_text("no", 401), as_text("x", 503), as_text("<p>"), httpx.ReadError("lost")], ids=range(4)
)
def test_no_variable_in_a_traceback_shows_the_key(answer):
    for call in (flags.get(1), flags.update(1, rollout_percentage=5)):
        with a_server(answer), a_client() as client, pytest.MonkeyPatch.context() as patch:
            patch.setattr("time.sleep", lambda _: None)
            with pytest.raises(AmplitudeError) as caught:
                client.send(call)
        shown = variables(caught.value)
        assert "_attempt" in shown
        assert KEY not in shown


def test_a_key_in_escaped_json_is_found_too():
    escaped = "".join(f"\\u{ord(each):04x}" for each in KEY)
    assert KEY not in everything(failure(flags.get(1), as_text('{"message": "' + escaped + '"}', 400)))


@pytest.mark.parametrize("cls", [Client, AsyncClient])
def test_a_client_shows_its_key_in_no_text_and_no_attribute(cls):
    client = cls(KEY, base_url="http://h", dialect="beta")
    assert repr(client) == f"{cls.__name__}(base_url='http://h', dialect='beta')"
    for shown in (repr(client), str(client), repr(vars(client)), repr(vars(client._http))):
        assert KEY not in shown
    with pytest.raises((TypeError, AttributeError, pickle.PicklingError)):
        pickle.dumps(client)


def test_an_exchange_shows_no_key_either():
    exchange = a_client()._exchange(flags.get(1))
    assert KEY not in repr(vars(exchange))


@pytest.mark.parametrize(
    "make",
    [
        lambda ids: flags.add_users(1, "on", ids),
        lambda ids: flags.remove_users(1, "on", ids),
        lambda ids: mutexes.update_slot(1, 1, individuals=ids),
        lambda ids: mutexes.create(project_id=1, name="m", slots=[{"percentage": 100, "individuals": ids}]),
        lambda ids: holdouts.update(1, individual_inclusion=ids[:2], individual_exclusion=ids[2:]),
        lambda ids: holdouts.create(project_id=1, name="h", holdout_percentage=5, individual_inclusion=ids),
    ],
)
@pytest.mark.parametrize(
    "answer",
    [
        as_json({"message": f"already there: {', '.join(PEOPLE)}"}, 400),
        as_json({"errors": [{"user": person} for person in PEOPLE]}, 400),
        as_text(" ".join(PEOPLE), 403),
        as_text("\n".join(PEOPLE), 503),
        httpx.ReadError(" ".join(PEOPLE)),
    ],
    ids=["message", "json", "text", "503", "lost"],
)
def test_no_error_names_the_people_of_the_request(make, answer):
    error = failure(make(PEOPLE), answer)
    assert isinstance(error, AmplitudeError)
    shown = f"{error} {error.as_dict()} {error.__cause__!r}"
    assert not [person for person in PEOPLE if person in shown]


def test_an_id_that_is_part_of_a_word_does_not_spoil_the_text():
    error = failure(flags.add_users(1, "on", ["on", "1", "is"]), as_text("conditions: 100 is too many for 1", 400))
    assert error.text == "conditions: 100 *** too many for ***"


@pytest.mark.parametrize("wrong", [PEOPLE[0], {PEOPLE[0]: 1}, [[PEOPLE[0]]], [{"id": PEOPLE[0]}]], ids=range(4))
def test_a_refused_request_names_nobody(wrong):
    for make in (lambda: flags.add_users(1, "on", wrong), lambda: mutexes.update_slot(1, 1, individuals=wrong)):
        error = send(make(), as_text()).error
        assert type(error) is ValueError
        assert PEOPLE[0] not in str(error)
        assert error.__cause__ is None
        assert error.__suppress_context__


def test_a_wrong_slot_names_nobody():
    slots = [{"percentage": 100, "individuals": PEOPLE[0]}]
    for call in (
        mutexes.create(project_id=1, name="m", slots=slots),
        mutexes.create(project_id=1, name="m", slots=PEOPLE[0]),
    ):
        assert PEOPLE[0] not in str(send(call, as_text()).error)


def test_the_repr_of_a_call_names_nobody_however_they_are_given():
    for given in (PEOPLE, tuple(PEOPLE), PEOPLE[0], {"x": PEOPLE[0]}):
        assert PEOPLE[0] not in repr(flags.add_users(1, "on", given))


def test_no_log_shows_the_key_and_none_above_debug_the_people(caplog):
    """Over a real socket, so that httpcore and asyncio log as they would."""
    for logger in (None, "httpx", "httpcore"):  # Airflow may have quieted the latter
        caplog.set_level(logging.DEBUG, logger)
    with EchoServer() as url:
        with Client(KEY, base_url=url) as client, pytest.raises(AmplitudeError):
            client.send(flags.add_users(1, "on", PEOPLE))
        asyncio.run(_send_async(url))
    shown = [record.getMessage() for record in caplog.records]
    assert any("send_request_headers" in line for line in shown), "httpcore logged nothing: this shows nothing"
    assert any("HTTP Request" in line for line in shown)
    everything_logged = "\n".join(shown) + caplog.text
    assert KEY not in everything_logged
    assert base64.b64encode(KEY.encode()).decode() not in everything_logged
    above = "\n".join(record.getMessage() for record in caplog.records if record.levelno > logging.DEBUG)
    assert not [person for person in PEOPLE if person in above]


async def _send_async(url: str) -> None:
    async with AsyncClient(KEY, base_url=url) as client:
        with pytest.raises(AmplitudeError):
            await client.send(flags.add_users(1, "on", PEOPLE))


class EchoServer:
    """Answers every request with 400 and the request itself, as a badly made proxy would."""

    def __enter__(self) -> str:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        return f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection:
                said = connection.recv(65536)
                head = f"HTTP/1.1 400 Bad\r\ncontent-length: {len(said)}\r\nconnection: close\r\n\r\n".encode()
                connection.sendall(head + said)

    def __exit__(self, *_: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(5)


def test_what_an_echoing_server_says_holds_no_key():
    with EchoServer() as url, Client(KEY, base_url=url) as client, pytest.raises(AmplitudeError) as caught:
        client.send(flags.get(1))
    assert "***" in str(caught.value)
    assert KEY not in everything(caught.value)


def test_a_warning_of_the_checks_holds_no_person(caplog):
    with caplog.at_level(logging.DEBUG), a_server(as_json({"id": 1})), a_client() as client:
        client.send(holdouts.create(project_id=1, name="h", holdout_percentage=50, individual_inclusion=PEOPLE))
    assert "A holdout of 50 %" in caplog.text
    assert not [person for person in PEOPLE if person in caplog.text]


def test_errors_of_both_kinds_still_say_something():
    assert "***" in str(failure(flags.get(1), ALL_TOLD))
    assert "ConnectError: can't reach ***" in str(failure(flags.get(1), httpx.ConnectError(f"can't reach {KEY}")))
    assert "no answer" in str(failure(flags.get(1), httpx.ReadError("")))
    assert AmplitudeConnectionError.advice
    assert AmplitudeUnexpectedAnswer.advice
