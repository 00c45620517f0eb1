"""Lists of more than a page, over every way in which a next page can be named."""

from __future__ import annotations

import itertools

import pytest

from airflow_amplitude_experiment.api import deployments, experiments, flags, holdouts, mutexes, versions

from .drive import All, run

CURSORS = ["string", "integer", "opaque"]
PLACES = ["top", "in_array"]
ENDS = ["absent", "null", "empty"]
WAYS = [
    {"cursor": cursor, "next_cursor": place, "end_of_list": end}
    for cursor, place, end in itertools.product(CURSORS, PLACES, ENDS)
]


def fill(emulator, count=5):
    for number in range(count):
        emulator.add_flag(f"flag-{number}")
        emulator.add_experiment(f"experiment-{number}")
        emulator.add_mutex(f"mutex-{number}", slots=[{"percentage": 100}])
        emulator.add_holdout(f"holdout-{number}", holdout_percentage=5)
    emulator.seed({"deployments": [{"label": f"label-{number}", "type": "client"} for number in range(count)]})


@pytest.mark.parametrize("ways", WAYS, ids=lambda ways: "-".join(ways.values()))
@pytest.mark.parametrize("dialect", ["v1", "beta"])
def test_every_list_is_read_to_its_end_in_pages_of_two(emulator, way, dialect, ways):
    fill(emulator)
    emulator.options(**ways)
    lists = [flags.list(limit=2), experiments.list(limit=2), deployments.list(limit=2)]
    if dialect == "v1":
        lists += [mutexes.list(limit=2), holdouts.list(limit=2)]

    def scenario():
        for call in lists:
            found = yield All(call)
            ids = [each.id for each in found]
            expected = 6 if call.endpoint == "deployments.list" else 5  # the project's default one is there too
            assert (len(ids), len(set(ids))) == (expected, expected), call
        if dialect == "v1":
            feed = yield All(versions.list(limit=3))
            assert len({(each.flag_config.id, each.version) for each in feed}) == len(feed) >= 10

    run(way, emulator, scenario(), dialect=dialect)


def test_a_thousand_and_one_objects_take_two_requests(emulator, way):
    emulator.seed({"flags": [{"key": f"flag-{number}"} for number in range(1001)]})

    def scenario():
        return (yield All(flags.list()))

    emulator.clear_requests()
    found = run(way, emulator, scenario())
    assert len({flag.key for flag in found}) == 1001
    assert [each["query"]["limit"] for each in emulator.requests()] == ["1000", "1000"]


def test_objects_created_while_paging_do_not_double_those_already_seen(emulator, way):
    fill(emulator)

    def scenario():
        pages = []
        page = yield flags.list(limit=2)
        pages += page.items
        emulator.add_flag("newest")  # shifts every later page by one
        return (yield All(flags.list(limit=2)))

    found = run(way, emulator, scenario())
    assert len(found) == len({flag.id for flag in found}) == 6


@pytest.mark.parametrize("filtering", ["exact", "partial"])
def test_b8_a_key_is_found_exactly(emulator, way, filtering):
    for key in ("new-nav", "new-nav-2", "my-new-nav"):
        emulator.add_flag(key)
    emulator.options(key_filter=filtering)

    def scenario():
        return (yield All(flags.list(key="new-nav")))

    assert [flag.key for flag in run(way, emulator, scenario())] == ["new-nav"]
