"""One scenario, two clients: a scenario is a generator that yields calls and is given what they return."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

from airflow_amplitude_experiment.api import AmplitudeError, AsyncClient, Call, Client
from airflow_amplitude_experiment.emulator import Emulator

Scenario = Generator[Any, Any, Any]


@dataclass
class All:
    """Ask for every page of a list."""

    call: Call[Any]


def run(way: str, emulator: Emulator, scenario: Scenario, **options: Any) -> Any:
    """Drive a scenario with the sync or the async client and return what it returns."""
    key = options.pop("key", emulator.management_key)
    settings = {"base_url": emulator.url, "requests_per_second": None, "timeout": 5, **options}
    if way == "sync":
        with Client(key, **settings) as client:
            return _drive(scenario, lambda step: _send(client, step))
    with asyncio.Runner() as runner:
        client = AsyncClient(key, **settings)
        try:
            return _drive(scenario, lambda step: runner.run(_asend(client, step)))
        finally:
            runner.run(client.close())


def _drive(scenario: Scenario, send: Callable[[Any], Any]) -> Any:
    answer: Any = None
    error: AmplitudeError | None = None
    while True:
        try:
            step = scenario.throw(error) if error else scenario.send(answer)
        except StopIteration as done:
            return done.value
        answer, error = None, None
        try:
            answer = send(step)
        except AmplitudeError as failed:
            error = failed


def _send(client: Client, step: Any) -> Any:
    return list(client.iterate(step.call)) if isinstance(step, All) else client.send(step)


async def _asend(client: AsyncClient, step: Any) -> Any:
    if isinstance(step, All):
        return [each async for each in client.iterate(step.call)]
    return await client.send(step)
