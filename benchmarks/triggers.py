"""What waits cost on one event loop, against one poll per wait as other providers' triggers do.

Each measurement is a fresh process that runs Airflow's own ``TriggerRunner``, the part of a triggerer that holds the
triggers and hosts shared streams, without its database; ``[triggerer] capacity`` would have to be at least the number
of waits (Airflow's default is 1000). It speaks HTTP to a server in another process, which has one experiment per wait,
at least 1,000. Half of the waits are for a state, looked at every 30 seconds, which is twice as often as the default
at its fastest; half are for an end date, looked at every 15 minutes, as is their default. All join at once, as after
a restart. Then, within 50 seconds, a twentieth of them come to their end: states change at any moment, ends at two.

* ``ours``: Airflow 3.3's shared streams; ``run()``: the same waits where Airflow offers none, as on 3.1;
* ``own polls``: each wait opens a client (all share one TLS context, which is kind) and reads its own experiment
  every 30 seconds;
* ``asleep``: triggers that only sleep, which is what Airflow itself takes.

``CPU`` is the process's time on a processor per time that passed; ``lag`` is how late a heartbeat of 10 ms came;
``late`` is the time from a change, or an end date, to the event of its wait; ``memory`` is what the process grew by per
wait while they joined.

Run it with ``make bench``, or on its own; ``--waits`` names other numbers, ``--interval`` and ``--window`` other times.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import re
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from statistics import quantiles
from typing import Any
from urllib.request import urlopen

from import_time import contained

WAITS = [10, 100, 1_000, 10_000]
WAYS = ("ours", "run()", "own polls", "asleep")
CONNECTION = "amplitude_experiment_default"
PROJECT = "100001"
FIRST_ID = 20_000
FEWEST = 1_000
RECHECK = 900.0
SHARE = 20
HEARTBEAT = 0.01
ONLY = {"run()": 1_000, "asleep": 10_000}
"""Ways that are measured with one number of waits."""

A_WHILE = 12.0
"""Seconds until all have joined, and one more for each 500 of them."""

Measured = dict[str, Any]


def main() -> None:
    """Measure every way with every number of waits and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--waits", type=int, nargs="+", default=WAITS)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--interval", type=float, default=30.0)
    parser.add_argument("--window", type=float, default=50.0)
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        asyncio.run(serve(int(options.serve[0]), float(options.serve[1])))
    elif options.measure:
        way, waits = options.measure
        print("MEASURED" + json.dumps(measure(way, int(waits), options.interval, options.window)))
    else:
        report(measure_all(options.waits, options.ways, options.interval, options.window), options.interval)


def measure_all(waits: list[int], ways: list[str], interval: float, window: float) -> dict[tuple[str, int], Measured]:
    """Measure one by one what is heavy, and at once what takes next to nothing, so that it all ends in minutes."""
    cases = [(way, count) for count in waits for way in ways if ONLY.get(way, count) == count]
    light = [case for case in cases if case[1] <= FEWEST]
    heavy = [case for case in cases if case[1] > FEWEST]
    found: dict[tuple[str, int], Measured] = {}
    with contained() as environment:

        def measured(case: tuple[str, int]) -> None:
            found[case] = in_a_fresh_process(*case, interval, window, environment)

        with ThreadPoolExecutor(max(len(light), 1)) as pool:
            list(pool.map(measured, light))
        for case in heavy:
            measured(case)
    return {case: found[case] for case in cases}


def in_a_fresh_process(way: str, waits: int, interval: float, window: float, environment: dict[str, str]) -> Measured:
    """Measure one way with one number of waits."""
    arguments = ["--measure", way, str(waits), "--interval", str(interval), "--window", str(window)]
    run = subprocess.run(
        [sys.executable, __file__, *arguments],
        capture_output=True,
        text=True,
        env={**environment, "AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING"},
        check=False,
    )
    if "MEASURED" not in run.stdout:
        raise SystemExit(f"{way}, {waits} waits\n{run.stdout}\n{run.stderr}")
    measured: Measured = json.loads(run.stdout.rpartition("MEASURED")[2])
    return measured


def report(found: dict[tuple[str, int], Measured], interval: float) -> None:
    """Print the table, in Markdown, and what the machine is."""
    print(
        f"Waits on one event loop, a look every {interval:g} s. Airflow {version('apache-airflow')}, "
        f"Python {platform.python_version()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the end"
    )
    print()
    columns = "waits", "way", "requests/min", "CPU %", "lag p50 / p99 / max ms", "late p50 / p99 s", "fired"
    print("| " + " | ".join((*columns, "KB per wait", "join s")) + " |")
    print("| ---: | :--- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for (way, waits), row in found.items():
        late = "–" if not row["late"] else f"{percentile(row['late'], 50):.1f} / {percentile(row['late'], 99):.1f}"
        lag = " / ".join(f"{value:.0f}" for value in row["lag"])
        memory = f"{row['memory'] / waits / 1024:.1f}" if waits >= FEWEST else "–"
        print(
            f"| {waits:,} | {way} | {row['requests']:.0f} | {row['cpu'] * 100:.1f} | {lag} | {late} "
            f"| {len(row['late'])} of {row['expected']} | {memory} | {row['join']:.1f} |"
        )
    print()
    for (way, waits), row in found.items():
        mine = found.get(("ours", waits))
        if way == "own polls" and mine:
            requests, cpu = row["requests"] / max(mine["requests"], 1), row["cpu"] / max(mine["cpu"], 0.001)
            print(f"{waits:,} waits: own polls send {requests:,.0f} times the requests, at {cpu:.1f} times the CPU.")
        if way == "asleep" and mine:
            print(f"{waits:,} waits: ours take {(mine['cpu'] - row['cpu']) * 100:.1f} % beyond Airflow's own.")


# --- the process that is measured --------------------------------------------------------------------------


def measure(way: str, waits: int, interval: float, window: float) -> Measured:
    """In the fresh process: let the waits join, and look at them for a while."""
    for module in ("airflow.jobs.triggerer_job_runner", "airflow_amplitude_experiment.hooks.guard"):
        import_module(module)  # a busy machine takes its time, and what is measured begins at a moment that is known
    begin = time.time() + A_WHILE + waits / 500
    with served(waits, begin) as port:
        host = f"http://127.0.0.1:{port}"
        extra = {"project_id": PROJECT}
        connection = {"conn_type": "amplitude_experiment", "host": host, "password": "key", "extra": extra}
        os.environ[f"AIRFLOW_CONN_{CONNECTION.upper()}"] = json.dumps(connection)
        return asyncio.run(watched(way, waits, begin, host, interval, window))


async def watched(way: str, waits: int, begin: float, host: str, interval: float, window: float) -> Measured:
    """Run the triggers as a triggerer does, and measure a window that starts when all have settled down."""
    runner, workload = prepared(way, waits, begin, host, interval)
    lags: list[float] = []
    heart = asyncio.create_task(beat(lags))
    await turn(runner, [workload(-1)])
    runner.triggers[-1]["task"].cancel()
    await turn(runner, [])
    grown, joining = resident(), time.perf_counter()
    await turn(runner, [workload(number) for number in range(waits)])
    joined, grown = time.perf_counter() - joining, resident() - grown
    if time.time() > begin:
        raise SystemExit(f"This machine is too busy: {waits} waits took {joined:.0f} s to join")
    while time.time() < begin:
        await turn(runner, [])
    lags.clear()
    changes = asyncio.create_task(changed(host, waits, begin, max(window - interval - 5, 1)))
    before, cpu, wall = await counted(host), time.process_time(), time.perf_counter()
    while time.time() < begin + window:
        await turn(runner, [])
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    lag = [percentile(lags, 50) * 1e3, percentile(lags, 99) * 1e3, max(lags) * 1e3]
    requests = (await counted(host) - before) * 60 / wall
    moments = {**await changes, **{number: round(end_of(number, waits, begin)) for number in ending(waits)}}
    late = [fired - moments[number] for number, fired in runner.events.at.items() if number in moments]
    heart.cancel()
    row = {"requests": requests, "cpu": cpu / wall, "lag": lag, "memory": grown, "join": joined}
    return row | {"late": late, "expected": 0 if way == "asleep" else len(moments)}


class Fired(deque[Any]):
    """Airflow's queue of events, which notes when each came."""

    def __init__(self) -> None:
        super().__init__()
        self.at: dict[int, float] = {}

    def append(self, entry: Any) -> None:
        """Note the moment; the supervisor that would take the event isn't there."""
        self.at[entry.trigger_id] = time.time()


def prepared(way: str, waits: int, begin: float, host: str, interval: float) -> tuple[Any, Any]:
    """Return Airflow's runner of triggers, and what makes the workload of a wait."""
    from airflow.executors.workloads.trigger import RunTrigger
    from airflow.jobs.triggerer_job_runner import TriggerRunner
    from airflow.models.trigger import Trigger

    runner: Any = TriggerRunner()  # type: ignore[no-untyped-call]
    runner.events = Fired()
    runner.trigger_cache |= {"own polls": own_poll(host, interval), "asleep": asleep()}
    if way == "run()":
        from airflow_amplitude_experiment.triggers._wait import AmplitudeWaitTrigger

        AmplitudeWaitTrigger.shared_stream_key = lambda self: None  # type: ignore[method-assign]

    def workload(number: int) -> RunTrigger:
        path, arguments = (way, {"number": number}) if way in WAYS[2:] else ours(number, waits, begin, interval)
        return RunTrigger(id=number, classpath=path, encrypted_kwargs=Trigger.encrypt_kwargs(arguments))

    return runner, workload


def ours(number: int, waits: int, begin: float, interval: float) -> tuple[str, dict[str, Any]]:
    """Return a trigger as its deferred task left it, somewhere within its interval."""
    from airflow_amplitude_experiment.triggers import AmplitudeEndDateTrigger, AmplitudeStateTrigger

    of_end = number % 2
    every = RECHECK if of_end else interval
    shared: dict[str, Any] = {
        "amplitude_conn_id": CONNECTION,
        "kind": "experiment",
        "object_id": str(FIRST_ID + number),
        "object_key": f"experiment-{number}",
        "project_id": PROJECT,
        "next_look": in_iso(begin + random.uniform(0, every)),
        "interval": every,
    }
    if of_end:
        ends_at = in_iso(end_of(number, waits, begin))
        return AmplitudeEndDateTrigger(on_missing="fail", matters_at=ends_at, **shared).serialize()
    return AmplitudeStateTrigger(until={"state": "running"}, **shared).serialize()


def own_poll(host: str, interval: float) -> type[Any]:
    """Return a trigger as other providers write them: it polls for itself alone."""
    import httpx
    from airflow.triggers.base import BaseTrigger, TriggerEvent

    context = httpx.create_ssl_context()

    class OwnPoll(BaseTrigger):
        def __init__(self, number: int) -> None:
            super().__init__()  # type: ignore[no-untyped-call]
            self.number = number

        def serialize(self) -> tuple[str, dict[str, Any]]:
            return "own polls", {"number": self.number}

        async def run(self) -> Any:
            await asyncio.sleep(random.uniform(0, interval))
            while not await self.is_over():
                await asyncio.sleep(interval)
            yield TriggerEvent(self.number)  # type: ignore[no-untyped-call]

        async def is_over(self) -> bool:
            with suppress(httpx.HTTPError):
                async with httpx.AsyncClient(base_url=host, verify=context, timeout=30.0) as client:
                    found = (await client.get(f"/api/1/experiments/{FIRST_ID + self.number}")).json()
                ended = datetime.fromisoformat(found["endDate"]) <= datetime.now(UTC)
                return ended if self.number % 2 else bool(found["state"] == "running")
            return False

    return OwnPoll


def asleep() -> type[Any]:
    """Return a trigger that does nothing."""
    from airflow.triggers.base import BaseTrigger

    class Asleep(BaseTrigger):
        def __init__(self, number: int) -> None:
            super().__init__()  # type: ignore[no-untyped-call]

        def serialize(self) -> tuple[str, dict[str, Any]]:
            return "asleep", {}

        async def run(self) -> Any:
            await asyncio.Event().wait()
            yield

    return Asleep


async def turn(runner: Any, workloads: list[Any]) -> None:
    """Do what a triggerer does every second."""
    await runner.cleanup_finished_triggers()
    runner.to_create.extend(workloads)
    await runner.create_triggers()
    await asyncio.sleep(1)


async def beat(lags: list[float]) -> None:
    """Note how late each heartbeat comes."""
    while True:
        due = time.perf_counter() + HEARTBEAT
        await asyncio.sleep(HEARTBEAT)
        lags.append(time.perf_counter() - due)


async def changed(host: str, waits: int, begin: float, span: float) -> dict[int, float]:
    """Change some experiments one after the other; return when each was changed."""
    moments = {}
    chosen = [number for number in firing(waits) if not number % 2]
    for number, moment in zip(chosen, sorted(random.uniform(0, span) for _ in chosen), strict=True):
        await asyncio.sleep(begin + moment - time.time())
        await asyncio.to_thread(read, f"{host}/change/{FIRST_ID + number}")
        moments[number] = time.time()
    return moments


async def counted(host: str) -> int:
    """Return how many requests the server had."""
    return int(await asyncio.to_thread(read, f"{host}/count"))


def read(url: str) -> bytes:
    with urlopen(url, timeout=60) as response:
        content: bytes = response.read()
    return content


def resident() -> int:
    """Return the memory that the process holds, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) * 1024
    return 0


def percentile(values: list[float], percent: int) -> float:
    return quantiles(values, n=100, method="inclusive")[percent - 1] if len(values) > 1 else values[0]


# --- the server --------------------------------------------------------------------------------------------


def firing(waits: int) -> range:
    """Return the waits that end within the window; two at the least, one of each kind."""
    return range(max(waits // SHARE, 2))


def ending(waits: int) -> list[int]:
    return [number for number in firing(waits) if number % 2]


def end_of(number: int, waits: int, begin: float) -> float:
    """Return when an experiment ends: some soon, at two moments, as people choose round ones; the rest next year."""
    return begin + ((5 if number % 4 == 1 else 12) if number in firing(waits) else 3e7)


def in_iso(moment: float) -> str:
    return datetime.fromtimestamp(round(moment), UTC).isoformat()


@contextmanager
def served(waits: int, begin: float) -> Iterator[int]:
    """Yield the port of a server in a process of its own."""
    command = [sys.executable, __file__, "--serve", str(waits), str(begin)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            yield int(process.stdout.readline())
        finally:
            process.terminate()


class Experiments:
    """The experiments as bytes: the server must not be what is measured."""

    def __init__(self, waits: int, begin: float) -> None:
        self.rows = [row(number, end_of(number, waits, begin)) for number in range(max(waits, FEWEST))]
        self.requests = 0

    def answer(self, path: str) -> bytes:
        """Answer one request by its path."""
        place, _, query = path.partition("?")
        name = place.rpartition("/")[2]
        if name == "count":
            return str(self.requests).encode()
        if place.startswith("/change/"):
            number = int(name) - FIRST_ID
            self.rows[number] = self.rows[number].replace(b'"planning"', b'"running"')
            return b"OK"
        self.requests += 1
        if name != "experiments":
            return self.rows[int(name) - FIRST_ID]
        start = int(found[1]) if (found := re.search(r"cursor=(\d+)", query)) else 0
        limit = int(found[1]) if (found := re.search(r"limit=(\d+)", query)) else 100
        cursor = f',"nextCursor":"{start + limit}"' if start + limit < len(self.rows) else ""
        return b'{"experiments":[' + b",".join(self.rows[start : start + limit]) + b"]" + cursor.encode() + b"}"


def row(number: int, ends_at: float) -> bytes:
    """Return an experiment as long as Amplitude's own."""
    weights = {"control": 1, "treatment": 1}
    condition = {"type": "property", "prop": "plan", "op": "is", "values": ["pro"]}
    segment = {"name": "beta", "conditions": [condition], "percentage": 100, "rolloutWeights": weights}
    names = {"id": str(FIRST_ID + number), "projectId": PROJECT, "deployments": ["30001"], "enabled": True}
    words = {"key": f"experiment-{number}", "name": f"Experiment number {number}", "description": "Sells it more?"}
    buckets = {"bucketingKey": "amplitude_id", "bucketingSalt": f"salt-{number}", "bucketingUnit": "User"}
    served = {"evaluationMode": "remote", "variants": [{"key": "control"}, {"key": "treatment"}]}
    share = {"rolloutPercentage": 50, "rolloutWeights": weights, "targetSegments": [segment]}
    life = {"state": "planning", "decision": None, "stickyBucketing": False, "experimentType": "a-b-test"}
    dates = dict.fromkeys(("startDate", "createdAt", "lastModifiedAt"), "2026-01-01T00:00:00.000Z")
    people = dict.fromkeys(("createdBy", "lastModifiedBy"), "someone@example.com")
    dated = {**dates, "endDate": in_iso(ends_at), "parentDependencies": None}
    return json.dumps({**names, **words, **buckets, **served, **share, **life, **people, **dated}).encode()


class Answering(asyncio.Protocol):
    """HTTP as far as a GET needs it."""

    experiments: Experiments

    def connection_made(self, transport: Any) -> None:
        """Keep the way back."""
        self.transport, self.received = transport, b""

    def data_received(self, data: bytes) -> None:
        """Answer each request that is there as a whole."""
        self.received += data
        while b"\r\n\r\n" in self.received:
            head, _, self.received = self.received.partition(b"\r\n\r\n")
            body = self.experiments.answer(head.split(b" ", 2)[1].decode())
            kind = b"Content-Type: application/json\r\n"
            self.transport.write(b"HTTP/1.1 200 OK\r\n%sContent-Length: %d\r\n\r\n%s" % (kind, len(body), body))


async def serve(waits: int, begin: float) -> None:
    """Serve experiments on a free port, which is printed, until the process is ended."""
    Answering.experiments = Experiments(waits, begin)
    server = await asyncio.get_running_loop().create_server(Answering, "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    main()
