"""What the client costs beside bare httpx and json, and how many edits a second get through the limit of 100.

**A list of 100,000 objects**, 1,000 a page. Our two clients and the obvious code, which follows the cursor with httpx
and ``json.loads``, take turns against one server on a socket of this machine. It is a process of its own that holds the
pages as bytes, since the emulator would take longer to write a page than any of them takes to read it; its experiments
are as the reference shows them, with two variants, a segment, a dependency, deployments and tags. Our pace is lifted
(``requests_per_second=None``), which otherwise makes the same list last 20 seconds. Times are medians of the rounds;
``CPU`` is the processor's time in the process that reads. ``traced MB`` is the peak of what Python allocated
(``tracemalloc``) while objects are dropped as they come, ``MB in a list`` what a fresh process grew by (``ru_maxrss``)
with all of them in a list. ``loop kept`` is how long, in the processor's time, an event loop that reads the list lets a
heartbeat of 1 ms wait.

**One page, one call**: processor's time of each step alone, with the bytes of one page; of reading an object by its
id; and of opening a client.

**Edits** go to the emulator, with Amplitude's limit of 100 requests a second; requests, 429s and the fullest second are
counted from its log, and an edit counts once it was answered with success, within the time. Every client keeps its
default pace of 5 a second unless the table says otherwise; sync clients have a thread each, async ones a task each.

Run it with ``make bench``, or on its own; ``--rounds``, ``--objects`` and ``--seconds`` make it longer or shorter.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import resource
import subprocess
import sys
import threading
import time
import tracemalloc
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from importlib.metadata import version
from statistics import median, quantiles
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import httpx
from pydantic_core import from_json

from airflow_amplitude_experiment.api import AmplitudeRateLimited, AsyncClient, Client, experiments, flags
from airflow_amplitude_experiment.api.models import Experiment

KEY = "emulator-management-key"
PAGE = 1_000
FIRST_ID = 70_001
MEGABYTE = 1_000_000
UNIT_OF_RSS = 1 if sys.platform == "darwin" else 1_024
HEADERS = {"Authorization": f"Bearer {KEY}", "Accept": "application/json"}


def main() -> None:
    """Measure lists, single calls and edits, and print a table of each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--objects", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--memory", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        asyncio.run(serve(options.serve))
    elif options.memory:
        print(measured_memory(*options.memory))
    else:
        packages = ", ".join(f"{name} {version(name)}" for name in ("httpx", "pydantic"))
        print(f"Python {platform.python_version()}, {packages}, {platform.machine()}, {os.cpu_count()} cores")
        with process("--serve", str(options.objects)) as url, process("--serve", str(3 * PAGE)) as short:
            lists(url, short, options.objects, options.rounds)
            steps(url)
        with process("-m", "airflow_amplitude_experiment.emulator", "--port", "0") as url:
            edits(url, options.seconds)
        print(f"\nLoad of the machine at the end: {os.getloadavg()[0]:.1f}")


# --- a long list -----------------------------------------------------------------------------------------


def bare(url: str) -> Iterator[Any]:
    """Read a list as one writes it by hand."""
    with httpx.Client(headers=HEADERS, timeout=30.0) as client:
        params: dict[str, Any] = {"limit": PAGE}
        while True:
            page = json.loads(client.get(f"{url}/api/1/experiments", params=params).content)
            yield from page["experiments"]
            if "nextCursor" not in page:
                return
            params["cursor"] = page["nextCursor"]


async def bare_async(url: str) -> AsyncGenerator[Any]:
    async with httpx.AsyncClient(headers=HEADERS, timeout=30.0) as client:
        params: dict[str, Any] = {"limit": PAGE}
        while True:
            page = json.loads((await client.get(f"{url}/api/1/experiments", params=params)).content)
            for each in page["experiments"]:
                yield each
            if "nextCursor" not in page:
                return
            params["cursor"] = page["nextCursor"]


def ours(url: str) -> Iterator[Any]:
    with Client(KEY, base_url=url, requests_per_second=None) as client:
        yield from client.iterate(experiments.list())


async def ours_async(url: str) -> AsyncGenerator[Any]:
    async with AsyncClient(KEY, base_url=url, requests_per_second=None) as client:
        async for each in client.iterate(experiments.list()):
            yield each


SYNC: dict[str, Callable[[str], Iterator[Any]]] = {"httpx + json": bare, "Client.iterate": ours}
ASYNC: dict[str, Callable[[str], AsyncGenerator[Any]]] = {
    "httpx + json, async": bare_async,
    "AsyncClient.iterate": ours_async,
}


def lists(url: str, short: str, objects: int, rounds: int) -> None:
    """Read the list in every way, taking turns, and print what it cost."""
    times: dict[str, list[tuple[float, float]]] = {way: [] for way in (*SYNC, *ASYNC)}
    for _ in range(rounds):
        for way, found in times.items():
            wall, cpu = time.perf_counter(), time.process_time()
            if (read := dropped(way, url)) != objects:
                raise SystemExit(f"{way}: {read} objects, expected {objects}")
            found.append((time.perf_counter() - wall, time.process_time() - cpu))
    print(f"\n{objects:,} objects in pages of {PAGE:,}, medians of {rounds} rounds\n")
    columns = "way", "objects/s", "× bare", "ms a page", "CPU ms a page", "CPU × bare"
    table(*columns, "traced MB", "MB in a list", "loop kept p50 / p99 / max ms")
    pages, of_bare = objects / PAGE, (1.0, 1.0)
    for way, found in times.items():
        wall, cpu = (median(column) for column in zip(*found, strict=True))
        of_bare = (wall, cpu) if way.startswith("httpx") else of_bare
        per_page = f"{wall / pages * 1000:.1f}", f"{cpu / pages * 1000:.1f}"
        times_bare = f"{wall / of_bare[0]:.2f}", f"{cpu / of_bare[1]:.2f}"
        traced, grown, _ = in_a_fresh_process(way, url, short)
        held = asyncio.run(blocks(ASYNC[way], url)) if way in ASYNC else "–"
        row(way, f"{objects / wall:,.0f}", times_bare[0], *per_page, times_bare[1], traced, grown, held)


def dropped(way: str, url: str) -> int:
    """Read the list and keep nothing of it; return how many objects that were."""

    async def read() -> int:
        return sum([1 async for _ in ASYNC[way](url)])

    return asyncio.run(read()) if way in ASYNC else sum(1 for _ in SYNC[way](url))


def kept(way: str, url: str) -> list[Any]:
    """Read the list and keep all of it."""

    async def read() -> list[Any]:
        return [each async for each in ASYNC[way](url)]

    return asyncio.run(read()) if way in ASYNC else list(SYNC[way](url))


async def blocks(way: Callable[[str], AsyncGenerator[Any]], url: str) -> str:
    """Say how long the loop was kept from a heartbeat, once the first page was read."""
    kept: list[float] = []

    async def beat() -> None:
        while True:
            began = time.process_time()
            await asyncio.sleep(0.001)
            kept.append((time.process_time() - began) * 1000)

    beating, read = asyncio.create_task(beat()), 0
    async for _ in way(url):
        read += 1
        if read == PAGE:
            kept.clear()
    beating.cancel()
    return f"{median(kept):.1f} / {quantiles(kept, n=100, method='inclusive')[98]:.0f} / {max(kept):.0f}"


def in_a_fresh_process(*arguments: str) -> list[str]:
    """Return the megabytes of memory that :func:`measured_memory` finds."""
    run = subprocess.run([sys.executable, __file__, "--memory", *arguments], capture_output=True, text=True, check=True)
    return run.stdout.split()


def measured_memory(way: str, url: str, short: str) -> str:
    """In the fresh process: read a short list, so that what is loaded on first use doesn't count; then measure."""
    dropped(way, short)
    tracemalloc.start()
    dropped(way, short)
    traced = tracemalloc.get_traced_memory()[1] / MEGABYTE
    tracemalloc.stop()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    read = kept(way, url)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * UNIT_OF_RSS / MEGABYTE
    return f"{traced:.1f} {grown:.0f} {len(read)}"


# --- one page, one call ----------------------------------------------------------------------------------


def steps(url: str) -> None:
    """Take the bytes of a page through each step alone, read one object and open a client; print each time."""
    read = Experiment.__pydantic_validator__.validate_python
    one, call = f"{url}/api/1/experiments/{FIRST_ID}", experiments.get(FIRST_ID)
    with httpx.Client(headers=HEADERS) as client, Client(KEY, base_url=url, requests_per_second=None) as own:

        def fetch() -> bytes:
            return client.get(f"{url}/api/1/experiments", params={"limit": PAGE}).content

        content = fetch()
        listed = json.loads(content)["experiments"]
        taken: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
            "asking for a page and receiving it": (fetch, fetch),
            "its JSON": (lambda: json.loads(content), lambda: from_json(content)),
            "its models": (lambda: None, lambda: [None for each in listed if not read(each)]),
            "an object by its id": (lambda: json.loads(client.get(one).content), lambda: own.send(call)),
            "opening a client": (httpx.Client, lambda: Client(KEY, base_url=url)),
        }
        print(f"\nA page of {len(content):,} bytes; and single calls\n")
        table("CPU ms", "bare", "ours", "× bare")
        for what, both in taken.items():
            of_bare, of_ours = processor_times(*both)
            row(what, f"{of_bare:.2f}", f"{of_ours:.2f}", f"{of_ours / of_bare:.2f}" if of_bare > 0.01 else "–")


def processor_times(*ways: Callable[[], Any]) -> list[float]:
    """Return how long each of these keeps the processor, in milliseconds: medians, taking turns."""
    found: list[list[float]] = [[] for _ in ways]
    for _ in range(50):
        for do, times in zip(ways, found, strict=True):
            began = time.process_time()
            do()
            times.append((time.process_time() - began) * 1000)
    return [median(times) for times in found]


# --- edits -----------------------------------------------------------------------------------------------


class Editing(NamedTuple):
    """One way to edit: so many clients, tasks (or threads) on each, and the pace of a client."""

    name: str
    clients: int
    tasks: int
    pace: float | None


EDITING = (
    Editing("sync", 1, 1, 5),
    Editing("sync", 20, 1, 5),
    Editing("sync", 30, 1, 5),
    Editing("async", 20, 1, 5),
    Editing("async", 30, 1, 5),
    Editing("async", 1, 30, 5),
    Editing("async", 1, 30, 90),
    Editing("async", 1, 30, None),
    Editing("bare httpx, async", 1, 30, None),
)


def edits(url: str, seconds: float) -> None:
    """Edit in every way for some seconds each, and print what came of it."""
    control = httpx.Client(base_url=f"{url}/_emulator", timeout=30.0)
    control.post("/seed", json={"flags": [{"key": f"flag-{number}"} for number in range(30)]}).raise_for_status()
    with Client(KEY, base_url=url) as client:
        ids = [flag.id for flag in client.iterate(flags.list())]
    print(f"\nEdits for {seconds:g} s, one flag per task, against a limit of 100 requests a second\n")
    table("way", "clients", "tasks each", "pace each", "edits/s", "429s/s", "429s per edit", "most in a second")
    for way in EDITING:
        time.sleep(1.0 - time.time() % 1.0)
        control.delete("/requests")
        if way.name == "sync":
            done = edit_by_threads(url, ids, way, seconds)
        else:
            done = asyncio.run(edit_by_tasks(url, ids, way, seconds))
        log = control.get("/requests").json()["requests"]
        refused = sum(each["status"] == 429 for each in log)
        fullest = max(Counter(each["time"][:19] for each in log).values())
        counted = f"{done / seconds:.1f}", f"{refused / seconds:.1f}", f"{refused / max(done, 1):.2f}", fullest
        row(way.name, way.clients, way.tasks, f"{way.pace:g}/s" if way.pace else "none", *counted)


def edit_by_threads(url: str, ids: list[str], way: Editing, seconds: float) -> int:
    """Edit with a client per thread; return how many edits were done in time."""
    until, done = time.perf_counter() + seconds, Counter[str]()

    def work(flag_id: str) -> None:
        with Client(KEY, base_url=url, requests_per_second=way.pace) as client, suppress(AmplitudeRateLimited):
            while time.perf_counter() < until:
                client.send(flags.update(flag_id, description=f"edit {done[flag_id]}"))
                done[flag_id] += time.perf_counter() < until

    threads = [threading.Thread(target=work, args=[each]) for each in ids[: way.clients]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return done.total()


async def edit_by_tasks(url: str, ids: list[str], way: Editing, seconds: float) -> int:
    """Edit with a task per flag, on as many clients as there are to be; return how many edits were done in time."""
    done = 0

    async def work(client: Any, flag_id: str) -> None:
        nonlocal done
        while True:
            was_done = await edited(client, flag_id, f"edit {done}")
            done += was_done

    async with AsyncExitStack() as stack:
        clients: list[Any] = []
        for _ in range(way.clients):
            if way.name == "async":
                client: Any = AsyncClient(KEY, base_url=url, requests_per_second=way.pace)
            else:
                client = httpx.AsyncClient(base_url=f"{url}/api/1", headers=HEADERS, timeout=30.0)
            clients.append(await stack.enter_async_context(client))
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds), asyncio.TaskGroup() as tasks:
                for place, flag_id in enumerate(ids[: way.clients * way.tasks]):
                    tasks.create_task(work(clients[place // way.tasks], flag_id))
    return done


async def edited(client: AsyncClient | httpx.AsyncClient, flag_id: str, text: str) -> bool:
    """Send an edit and say whether it was done; what our client refuses it has repeated for a minute."""
    if isinstance(client, httpx.AsyncClient):
        return (await client.patch(f"/flags/{flag_id}", json={"description": text})).is_success
    await client.send(flags.update(flag_id, description=text))
    return True


# --- the other process, and the tables -------------------------------------------------------------------


@contextmanager
def process(*arguments: str) -> Iterator[str]:
    """Run a server in a process of its own; yield its address, which ends the first line it writes."""
    code = [] if arguments[0] == "-m" else [__file__]
    with subprocess.Popen([sys.executable, *code, *arguments], stdout=subprocess.PIPE, text=True) as running:
        try:
            yield (running.stdout.readline() if running.stdout else "").split()[-1]
        finally:
            running.terminate()


async def serve(objects: int) -> None:
    """Serve the list, and each of its first objects, from bytes that are ready."""
    pages = [page(start, objects) for start in range(0, objects, PAGE)]
    one = json.dumps(an_experiment(FIRST_ID)).encode()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                target = urlsplit((await reader.readuntil(b"\r\n\r\n")).split()[1].decode())
                cursor = int(parse_qs(target.query).get("cursor", ["0"])[0])
                body = pages[cursor // PAGE] if target.path.endswith("/experiments") else one
                head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
                writer.write(head.encode() + body)
                await writer.drain()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


def page(start: int, objects: int) -> bytes:
    end = min(start + PAGE, objects)
    cursor = {} if end == objects else {"nextCursor": end}
    return json.dumps({"experiments": [an_experiment(FIRST_ID + n) for n in range(start, end)], **cursor}).encode()


def an_experiment(number: int) -> dict[str, Any]:
    """Return an experiment with the fields that the reference's examples of lists and details show."""
    weights = {"control": 1, "treatment": 1}
    condition = {"type": "property", "prop": "gp:plan", "op": "is", "values": ["enterprise", "growth"]}
    segment = {"name": "Paying", "conditions": [condition], "percentage": 100, "rolloutWeights": weights}
    people = {"createdBy": "bot@example.com", "lastModifiedBy": "x@example.com"}
    moments = {"createdAt": "2026-01-02T10:26:00.996Z", "lastModifiedAt": "2026-02-03T10:26:00.996Z"}
    return {
        "id": str(number), "projectId": "501", "deployments": ["31", "32"], "key": f"checkout-copy-{number}",
        "name": f"Checkout copy {number}", "description": "What the button says", "enabled": True,
        "evaluationMode": "remote", "bucketingKey": "amplitude_id", "bucketingSalt": f"Qx{number}",
        "bucketingUnit": "User", "variants": [{"key": "control"}, {"key": "treatment"}],
        "rolloutPercentage": 10, "rolloutWeights": weights,
        "targetSegments": [{**segment, "bucketingKey": "amplitude_id"}],
        "parentDependencies": {"flags": {"80002": ["slot-1"]}, "operator": "all"},
        "decision": None, "decisionReason": None, "rolledOutVariant": None, "stickyBucketing": False,
        "state": "running", "startDate": "2026-02-01", "endDate": None, "experimentType": "a-b-test",
        "deleted": False, "tags": ["airflow"],
        **people, **moments,
    }  # fmt: skip


def table(*columns: str) -> None:
    row(*columns)
    print("| :--- |" + " ---: |" * (len(columns) - 1))


def row(*cells: Any) -> None:
    print("| " + " | ".join(str(cell) for cell in cells) + " |", flush=True)


if __name__ == "__main__":
    main()
