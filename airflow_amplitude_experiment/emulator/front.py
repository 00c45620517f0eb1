"""The outermost layer of the server: raw paths, the request log, and faults.

It stands before FastAPI because it needs what frameworks hide: the path as it was sent, so that ``%2F``
stays inside one part, and the connection itself, so that it can be cut.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from datetime import timedelta
from email.utils import format_datetime
from typing import Any
from urllib.parse import unquote

from .clock import to_timestamp, utc_now
from .faults import Fault
from .request_log import Entry
from .world import World

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

TRANSPORT = "amplitude_emulator.transport"  # where the server puts the connection
_NOT_THE_API = ("/_emulator", "/experiment/")
_PAGE = b"<!DOCTYPE html><html><head><title>Sign in</title></head><body>Please sign in.</body></html>"


def routable(scope: Scope) -> str:
    """Return the path for routing: decoded, but with an encoded slash kept inside its part."""
    raw = scope.get("raw_path") or scope["path"].encode()
    parts = raw.decode("latin-1").split("/")
    return "/".join(unquote(part).replace("%", "%25").replace("/", "%2F") for part in parts)


class Front:
    """Wraps the application; everything but the control path is logged and may be made to fail."""

    def __init__(self, app: App, world: World) -> None:
        self._app = app
        self._world = world

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = (scope.get("raw_path") or scope["path"].encode()).decode("latin-1")
        scope = {**scope, "path": routable(scope)}
        if path.startswith(_NOT_THE_API):
            await self._app(scope, receive, send)
            return
        body = await _read(receive)
        with self._world.store.lock:
            entry = self._world.log.open(
                method=scope["method"],
                path=path,
                query=scope["query_string"].decode("latin-1"),
                body=body,
                time=to_timestamp(self._world.store.clock()),
            )
            fault = self._world.faults.take(scope["method"], path)
            entry["fault"] = fault.kind if fault else None
        exchange = _Exchange(self._app, scope, body, receive, send, entry)
        try:
            await exchange.play(fault)
        finally:
            self._world.log.close(entry)


class _Exchange:
    """One request on its connection: run it, answer it, or cut it."""

    def __init__(self, app: App, scope: Scope, body: bytes, receive: Receive, send: Send, entry: Entry) -> None:
        self._app, self._scope, self._body = app, scope, body
        self._receive, self._send = receive, send
        self._entry = entry

    async def play(self, fault: Fault | None) -> None:
        """Answer as the application does, or as the fault says."""
        if fault is None:
            await self.forward(await self.run())
        else:
            await _PLAYS[fault.kind](self, fault.details)

    async def run(self) -> list[Message]:
        """Let the application do its work, and keep its answer."""
        kept: list[Message] = []
        given = False

        async def receive() -> Message:
            nonlocal given
            if given:
                return await self._receive()
            given = True
            return {"type": "http.request", "body": self._body, "more_body": False}

        async def send(message: Message) -> None:
            kept.append(message)

        await self._app(self._scope, receive, send)
        return kept

    async def forward(self, messages: list[Message]) -> None:
        """Send a kept answer."""
        for message in messages:
            # Before it leaves, so that whoever has the answer also finds it in the log.
            self._entry["status"] = message.get("status", self._entry["status"])
            await self._send(message)

    async def reply(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        """Send an answer that the application did not give."""
        fields = {"content-type": "text/plain; charset=utf-8", **headers, "content-length": str(len(body))}
        encoded = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in fields.items()]
        start = {"type": "http.response.start", "status": status, "headers": encoded}
        await self.forward([start, {"type": "http.response.body", "body": body}])

    async def cut(self, *, reset: bool = False) -> None:
        """End the connection without another byte."""
        transport = self._scope.get(TRANSPORT)
        if transport is None:  # no socket: the application is called in process
            raise ConnectionResetError("the emulator cut the connection")
        connection = transport.get_extra_info("socket")
        if reset and connection is not None:
            # Lingering for zero seconds makes the kernel send a reset instead of an orderly end.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
        await self._until_gone()

    async def truncate(self, messages: list[Message]) -> None:
        """Send the head and half of the body, then end the connection."""
        body = b"".join(message.get("body", b"") for message in messages)
        start = dict(messages[0])
        self._entry["status"] = start["status"]
        start["headers"] = [pair for pair in start["headers"] if pair[0].lower() != b"content-length"]
        start["headers"].append((b"content-length", str(max(len(body), 2)).encode()))
        await self._send(start)
        await self._send({"type": "http.response.body", "body": body[: len(body) // 2], "more_body": True})
        transport = self._scope.get(TRANSPORT)
        if transport is None:
            raise ConnectionResetError("the emulator cut the connection")
        transport.close()  # unlike abort, this lets what was written leave first
        await self._until_gone()

    async def _until_gone(self) -> None:
        """Wait for the server to notice, so that it does not answer in our place."""
        with suppress(TimeoutError):
            async with asyncio.timeout(2):
                while (await self._receive())["type"] != "http.disconnect":
                    pass


async def _read(receive: Receive) -> bytes:
    parts = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            break
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            break
    return b"".join(parts)


# --- one function per kind of fault ------------------------------------------------------------------


async def _refuse(exchange: _Exchange, details: dict[str, Any]) -> None:
    await exchange.cut(reset=True)


async def _cut_before(exchange: _Exchange, details: dict[str, Any]) -> None:
    await exchange.cut()


async def _cut_after(exchange: _Exchange, details: dict[str, Any]) -> None:
    await exchange.run()
    await exchange.cut()


async def _late(exchange: _Exchange, details: dict[str, Any]) -> None:
    # Applied first: whoever gives up waiting can't know that it was, and that is what is tested with it.
    messages = await exchange.run()
    await asyncio.sleep(float(details["seconds"]))
    await exchange.forward(messages)


async def _truncated(exchange: _Exchange, details: dict[str, Any]) -> None:
    await exchange.truncate(await exchange.run())


async def _html(exchange: _Exchange, details: dict[str, Any]) -> None:
    await exchange.reply(200, _PAGE, {"content-type": "text/html; charset=utf-8"})


async def _status(exchange: _Exchange, details: dict[str, Any]) -> None:
    if details["after"]:
        await exchange.run()
    body, headers = details["body"], dict(details["headers"])
    if not isinstance(body, str):
        body, headers = json.dumps(body), {"content-type": "application/json", **headers}
    await exchange.reply(int(details["status"]), body.encode(), headers)


async def _rate_limit(exchange: _Exchange, details: dict[str, Any]) -> None:
    headers = {}
    if details["retry_after_date"] is not None:
        moment = utc_now() + timedelta(seconds=float(details["retry_after_date"]))
        headers["retry-after"] = format_datetime(moment, usegmt=True)
    elif details["retry_after"] is not None:
        headers["retry-after"] = str(details["retry_after"])
    await exchange.reply(429, b"Too many requests for this project.", headers)


async def _redirect(exchange: _Exchange, details: dict[str, Any]) -> None:
    await exchange.reply(int(details["status"]), b"", {"location": details["location"]})


_PLAYS: dict[str, Callable[[_Exchange, dict[str, Any]], Awaitable[None]]] = {
    "refuse": _refuse,
    "cut_before": _cut_before,
    "cut_after": _cut_after,
    "late": _late,
    "truncated": _truncated,
    "html": _html,
    "status": _status,
    "rate_limit": _rate_limit,
    "redirect": _redirect,
}
