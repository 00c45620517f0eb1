"""Ways around max_percentage, max_step and the lists of keys that a team could try, each closed.

The connection of most tests here allows 50 % and steps of 10 points, on keys that begin with ``checkout-``.
"""

from __future__ import annotations

from typing import Any

import pytest

from airflow_amplitude_experiment.api import Call, RolloutRefused, deployments, experiments, flags, holdouts, mutexes

LIMITS = {"max_percentage": 50, "max_step": 10, "allow_keys": "checkout-*"}
GERMANS = [{"type": "property", "prop": "country", "op": "is", "values": ["Germany"]}]


def segment(percentage: int, name: str = "a", conditions: Any = (), weights: Any = None) -> dict[str, Any]:
    written = {"name": name, "conditions": list(conditions), "percentage": percentage}
    return {**written, "rolloutWeights": weights or {"on": 1}}


def everyone(percentage: int, name: str = "a") -> dict[str, Any]:
    return {**segment(percentage, name), "everyone": True}


def refused(hook: Any, call: Call[Any], rule: str, **options: Any) -> str:
    with hook.get_conn() as client, pytest.raises(RolloutRefused, match=f"rule {rule}") as error:
        client.send(call, **options)
    return str(error.value)


# --- percentages, the switch and the archive ---------------------------------------------------------


@pytest.mark.parametrize(
    ("stands", "asked", "rule"),
    [
        ({}, {"rollout_percentage": 20}, None),
        ({}, {"rollout_percentage": 21}, "max_step"),
        ({}, {"rollout_percentage": "21"}, "max_step"),
        ({}, {"rollout_percentage": 51}, "max_percentage"),
        ({}, {"rollout_percentage": "100"}, "max_percentage"),
        ({}, {"rollout_percentage": 0}, None),
        ({"rollout_percentage": 90}, {"rollout_percentage": 80}, None),
        ({"rollout_percentage": 90}, {"rollout_percentage": 90, "name": "n"}, None),
        ({"rollout_percentage": 90}, {"name": "n", "tags": ["t"]}, None),
        ({"enabled": False}, {"enabled": True}, None),
        ({"enabled": False}, {"enabled": "true"}, None),
        ({"enabled": False, "rollout_percentage": 11}, {"enabled": True}, "max_step"),
        ({"enabled": False, "rollout_percentage": 11}, {"enabled": "true"}, "max_step"),
        ({"enabled": False, "rollout_percentage": 60}, {"enabled": True}, "max_percentage"),
        ({"enabled": False, "rollout_percentage": 60}, {"enabled": True, "rollout_percentage": 10}, None),
        ({"enabled": False, "rollout_percentage": 0}, {"rollout_percentage": 10}, None),
        ({"enabled": False, "rollout_percentage": 0}, {"rollout_percentage": 11}, "max_step"),
        ({"enabled": False, "rollout_percentage": 60}, {"name": "n"}, None),
        ({"deleted": True, "rollout_percentage": 11}, {"archive": False}, "max_step"),
        ({"deleted": True, "rollout_percentage": 10}, {"archive": "false"}, None),
        ({"deleted": True, "enabled": False, "rollout_percentage": 90}, {"archive": False}, None),
        ({"deleted": True, "rollout_percentage": 90}, {"archive": False, "enabled": False}, None),
        ({"rollout_percentage": 90}, {"archive": True}, None),
        ({"rollout_percentage": 10}, {"archive": True, "rollout_percentage": 90}, "max_percentage"),
        ({"rollout_percentage": 10}, {"enabled": False, "rollout_percentage": 90}, "max_percentage"),
    ],
)
def test_the_switch_the_archive_and_the_percentage_are_one_exposure(
    stands: dict[str, Any], asked: dict[str, Any], rule: str | None, connect: Any, emulator: Any, writes: Any
) -> None:
    flag = emulator.add_flag("checkout-flag", **{"enabled": True, "rollout_percentage": 10, **stands})
    call = flags.update(flag["id"], **asked)
    if rule:
        refused(connect(**LIMITS), call, rule)
        assert writes() == []
    else:
        connect(**LIMITS).send(call)
        assert len(writes()) == 1


def test_the_beta_call_that_enables_is_an_exposure_too(connect: Any, emulator: Any) -> None:
    found = emulator.add_experiment("checkout-test", enabled=False, rollout_percentage=40)
    for dialect in ("v1", "beta"):
        refused(connect(dialect=dialect, **LIMITS), experiments.activate(found["id"]), "max_step")
        connect(dialect=dialect, **LIMITS).send(experiments.deactivate(found["id"]))


def test_a_number_as_id_names_the_same_object(connect: Any, emulator: Any) -> None:
    flag = emulator.add_flag("billing-flag")
    refused(connect(**LIMITS), flags.update(int(flag["id"]), name="n"), "allow_keys")
    refused(connect(**LIMITS), flags.update(f" {flag['id']} ", name="n"), "allow_keys")


def test_a_decision_to_roll_out_counts_as_100_percent(connect: Any, shop: Any) -> None:
    refused(connect(**LIMITS), experiments.update(shop.experiment, decision="rollout"), "max_percentage")
    connect(**LIMITS).send(experiments.update(shop.experiment, decision="rollback"))
    connect(**LIMITS).send(experiments.update(shop.experiment, decision="rollout", rollout_percentage=20))


# --- segments ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stands", "asked", "rule"),
    [
        ([], [everyone(20)], None),
        ([], [everyone(21)], "max_step"),
        ([], [segment(100, conditions=GERMANS)], "max_percentage"),
        ([segment(30, conditions=GERMANS)], [segment(40, conditions=GERMANS)], None),
        ([segment(30, conditions=GERMANS)], [segment(41, conditions=GERMANS)], "max_step"),
        ([segment(90, conditions=GERMANS)], [segment(80, conditions=GERMANS)], None),
        # the same name and percentage, and other people
        ([segment(30, conditions=GERMANS)], [everyone(30)], "max_step"),
        # what kept people out is gone: they fall to the rollout
        ([segment(0, conditions=GERMANS)], [], None),
        # a second segment of the same name
        ([segment(30, conditions=GERMANS)], [segment(30, conditions=GERMANS), everyone(30)], "max_step"),
        # the first that matches decides, so the order counts
        (
            [segment(0, "out", GERMANS), everyone(30, "rest")],
            [everyone(30, "rest"), segment(0, "out", GERMANS)],
            "max_",
        ),
    ],
)
def test_segments_are_compared_by_whom_they_catch(
    stands: Any, asked: Any, rule: str | None, connect: Any, emulator: Any
) -> None:
    for each in stands:
        each.pop("everyone", None)
    flag = emulator.add_flag("checkout-flag", enabled=True, rollout_percentage=10, target_segments=stands)
    call = flags.update(flag["id"], target_segments=asked)
    if rule:
        refused(connect(**LIMITS), call, rule)
    else:
        connect(**LIMITS).send(call)


def test_taking_away_a_segment_that_kept_people_out_is_a_rise_for_them(connect: Any, emulator: Any) -> None:
    stands = [segment(0, conditions=GERMANS)]
    flag = emulator.add_flag("checkout-flag", enabled=True, rollout_percentage=40, target_segments=stands)
    text = refused(connect(**LIMITS), flags.update(flag["id"], target_segments=[]), "max_step")
    assert "the rollout would rise from 0 % to 40 %" in text


@pytest.mark.parametrize("conditions", [[], GERMANS])
def test_enabling_brings_the_segments_that_stand_there(conditions: Any, connect: Any, emulator: Any) -> None:
    stands = [segment(100, conditions=conditions)]
    flag = emulator.add_flag("checkout-flag", enabled=False, rollout_percentage=0, target_segments=stands)
    refused(connect(**LIMITS), flags.update(flag["id"], enabled=True), "max_percentage")


@pytest.mark.parametrize("kind", [flags, experiments])
def test_an_object_can_not_be_created_with_a_segment_above_the_limit(kind: Any, connect: Any, shop: Any) -> None:
    new = {"project_id": shop.project, "key": "checkout-new"}
    refused(connect(**LIMITS), kind.create(**new, target_segments=[everyone(60)]), "max_percentage")
    connect(**LIMITS).send(kind.create(**new, target_segments=[everyone(10)]))


# --- variants and weights ----------------------------------------------------------------------------


@pytest.fixture
def at_full(emulator: Any) -> str:
    """An experiment that everybody is in, as the app can set it up: nine of ten users get control."""
    found = emulator.add_experiment(
        "checkout-test",
        enabled=True,
        rollout_percentage=100,
        variants=[{"key": "control"}, {"key": "treatment"}],
        rollout_weights={"control": 9, "treatment": 1},
    )
    return str(found["id"])


@pytest.mark.parametrize(
    ("call", "rule"),
    [
        (lambda one: experiments.update_variant(one, "treatment", rollout_weight=2), None),
        (lambda one: experiments.update_variant(one, "treatment", rollout_weight=9), "max_step"),
        (lambda one: experiments.update_variant(one, "treatment", rollout_weight="99"), "max_percentage"),
        (lambda one: experiments.update_variant(one, "control", rollout_weight=0), "max_percentage"),
        (lambda one: experiments.update_variant(one, "control", key="new-look"), "max_percentage"),
        (lambda one: experiments.update_variant(one, "control", description="d"), None),
        (lambda one: experiments.delete_variant(one, "control"), "max_percentage"),
        (lambda one: experiments.create_variant(one, key="more", rollout_weight=0), None),
        (lambda one: experiments.create_variant(one, key="more", rollout_weight=1), None),
        (lambda one: experiments.create_variant(one, key="more", rollout_weight=10), "max_step"),
        (lambda one: experiments.create_variant(one, key="more", rollout_weight=100), "max_percentage"),
        (lambda one: experiments.create_variant(one, key="more"), "max_step"),
    ],
)
@pytest.mark.parametrize("fields", ["sparse", "full"])
def test_a_variant_can_not_be_given_to_more_users_by_its_weight(
    call: Any, rule: str | None, fields: str, connect: Any, at_full: str, emulator: Any
) -> None:
    emulator.options(fields=fields)
    if rule:
        assert "variant" in refused(connect(**LIMITS), call(at_full), rule)
    else:
        connect(**LIMITS).send(call(at_full))


def test_all_weights_at_once_are_held_to_the_limits_too(connect: Any, at_full: str) -> None:
    call = experiments.set_rollout_weights(at_full, rollout_weights={"control": 1, "treatment": 9})
    refused(connect(dialect="beta", **LIMITS), call, "max_percentage")


def test_weights_of_an_object_that_is_off_move_nobody(connect: Any, at_full: str, emulator: Any) -> None:
    emulator.change("checkout-test", enabled=False)
    connect(**LIMITS).send(experiments.update_variant(at_full, "treatment", rollout_weight=99))


def test_a_cohort_may_hold_everybody_so_it_counts_as_100_percent(connect: Any, shop: Any) -> None:
    refused(connect(**LIMITS), flags.add_cohorts(shop.flag, "on", ["c9"]), "max_percentage")
    connect(**LIMITS).send(flags.add_users(shop.flag, "on", ["tester"]))
    connect(**LIMITS).send(flags.remove_cohorts(shop.flag, "on", ["c1"]))


# --- deployments -------------------------------------------------------------------------------------


def test_a_rollout_made_while_nobody_was_served_can_not_be_attached_at_once(connect: Any, emulator: Any) -> None:
    flag = emulator.add_flag("checkout-flag", enabled=True, rollout_percentage=40, deployments=[])
    deployment = connect().get_conn().send(deployments.list()).items[0].id
    refused(connect(**LIMITS), flags.add_deployments(flag["id"], [deployment]), "max_step")
    emulator.change("checkout-flag", rollout_percentage=10)
    connect(**LIMITS).send(flags.add_deployments(flag["id"], [deployment]))
    emulator.change("checkout-flag", rollout_percentage=40)
    connect(**LIMITS).send(flags.add_deployments(flag["id"], [deployment]))  # it serves it already


def test_a_deployment_is_named_by_its_label_before_and_after(connect: Any, shop: Any, writes: Any) -> None:
    refused(connect(allow_keys="checkout-*"), deployments.update(shop.deployment, label="checkout-web"), "allow_keys")
    refused(connect(allow_keys="w*"), deployments.update(shop.deployment, label="checkout-web"), "allow_keys")
    refused(
        connect(allow_keys="checkout-*"),
        deployments.create(project_id=shop.project, label="web2", type="client"),
        "allow_keys",
    )
    assert writes() == []


def test_archiving_a_deployment_takes_every_object_down_that_it_serves(connect: Any, shop: Any, emulator: Any) -> None:
    emulator.add_flag("billing-flag", deployments=[shop.deployment])
    text = refused(connect(allow_keys="web"), deployments.update(shop.deployment, archive=True), "allow_keys")
    assert "moves the traffic of billing-flag" in text
    connect(allow_keys="web,billing-*").send(deployments.update(shop.deployment, archive="true"))


def test_restoring_a_deployment_brings_its_objects_back_at_once(connect: Any, shop: Any, emulator: Any) -> None:
    emulator.add_flag("billing-flag", deployments=[shop.deployment], enabled=True, rollout_percentage=40)
    connect(max_step=10).send(deployments.update(shop.deployment, archive=True))
    refused(connect(max_step=10), deployments.update(shop.deployment, archive=False), "max_step")
    connect(max_step=40).send(deployments.update(shop.deployment, archive=False))


# --- groups ------------------------------------------------------------------------------------------


def slots(*members: str) -> list[dict[str, Any]]:
    return [{"percentage": 20, "experiments": list(members)}, {"percentage": 80}]


@pytest.mark.parametrize(
    "call",
    [
        lambda shop: mutexes.create(
            project_id=shop.project, name="m", key="checkout-m", evaluation_mode="local", slots=slots(shop.other)
        ),
        lambda shop: holdouts.create(
            project_id=shop.project, name="h", key="checkout-h", holdout_percentage=5, experiments=[shop.other]
        ),
        lambda shop: mutexes.update_slot(shop.mutex, 2, experiments=[shop.other]),
        lambda shop: mutexes.update_slot(shop.mutex, "2", experiments=[int(shop.other)]),
        lambda shop: mutexes.update_slot(shop.mutex, 2, holdouts=[shop.holdout]),
        lambda shop: holdouts.update(shop.holdout, experiments=[]),
        lambda shop: holdouts.update(shop.holdout, archive=True),
    ],
)
def test_a_group_can_not_be_used_to_move_another_teams_experiment(
    call: Any, connect: Any, shop: Any, writes: Any
) -> None:
    text = refused(connect(allow_keys="checkout-*"), call(shop), "allow_keys")
    assert "moves the traffic of billing-test" in text
    assert writes() == []


def test_a_group_can_not_be_brought_back_around_another_teams_experiment(connect: Any, emulator: Any) -> None:
    """As the app can archive it; that it restores one as well is the API's documented field."""
    other = emulator.add_experiment("billing-test")["id"]
    group = emulator.add_mutex("checkout-m", name="m", slots=slots(other), deleted=True)
    refused(connect(allow_keys="checkout-*"), mutexes.update(group["id"], archive=False), "allow_keys")
    refused(connect(allow_keys="checkout-*"), mutexes.update(group["id"], archive="false"), "allow_keys")


def test_a_group_may_be_changed_where_only_allowed_members_move(connect: Any, shop: Any, writes: Any) -> None:
    hook = connect(allow_keys="checkout-*")
    hook.send(mutexes.update_slot(shop.mutex, 1, experiments=[]))
    hook.send(mutexes.update(shop.mutex, description="d"))
    hook.send(holdouts.update(shop.holdout, description="d"))
    assert len(writes()) == 3


def test_a_group_without_a_key_is_no_allowed_one(connect: Any, shop: Any) -> None:
    call = mutexes.create(project_id=shop.project, name="m", slots=[{"percentage": 100}])
    assert "an object without a key" in refused(connect(allow_keys="*"), call, "allow_keys")
    assert "an object without a key" in refused(connect(deny_keys="x"), call, "deny_keys")


@pytest.mark.parametrize(
    "call",
    [
        lambda shop: mutexes.update(shop.mutex, archive=True),
        lambda shop: mutexes.update(shop.mutex, archive="true"),
        lambda shop: mutexes.update_slot(shop.mutex, 1, experiments=[]),
        lambda shop: mutexes.update_slot(shop.mutex, 2, experiments=[shop.experiment]),
    ],
)
def test_a_rollout_made_behind_a_small_slot_can_not_be_let_out_at_once(
    call: Any, connect: Any, shop: Any, emulator: Any
) -> None:
    emulator.change("checkout-test", rollout_percentage=50)
    text = refused(connect(**LIMITS), call(shop), "max_step")
    assert "the rollout would rise from 10 % to 50 %" in text


def test_a_holdout_of_five_percent_may_be_lifted_by_steps_of_ten(connect: Any, shop: Any, emulator: Any) -> None:
    emulator.change("billing-test", rollout_percentage=100)
    refused(connect(max_step=4), holdouts.update(shop.holdout, archive=True), "max_step")
    connect(max_step=10).send(holdouts.update(shop.holdout, archive=True))


# --- around the guard --------------------------------------------------------------------------------


async def test_a_client_writes_by_send_and_by_nothing_else(connect: Any, shop: Any, writes: Any) -> None:
    call = flags.update(shop.flag, rollout_percentage=100)

    def reading() -> Any:
        yield call

    with connect(**LIMITS).get_conn() as client:
        with pytest.raises(TypeError, match=r"only send\(\)"):
            list(client.iterate(call))
        with pytest.raises(TypeError, match=r"only send\(\)"):
            client.read(reading())
    async with await connect(**LIMITS).get_async_conn() as later:
        with pytest.raises(TypeError, match=r"only send\(\)"):
            [each async for each in later.iterate(call)]
        with pytest.raises(TypeError, match=r"only send\(\)"):
            await later.read(reading())
    assert writes() == []


def test_where_a_list_shows_less_the_rules_read_the_details(connect: Any, shop: Any) -> None:
    from airflow_amplitude_experiment.api.models import Flag

    sparse = Flag(id=shop.flag, key="checkout-flag", projectId=shop.project)
    call = flags.update(shop.flag, rollout_percentage=60)
    refused(connect(**LIMITS), call, "max_percentage", found=sparse)
