"""Switch flags and experiments off, at once.

The one operator that nothing holds back (law 10: the way down is always open, and only down): no pace, no rule but
``read_only``, no question whether the run belongs to the past, no deferral. It is written for the person who reads
its log at 3 a.m.: from the first failure on, every object has a line that says what to click in Amplitude.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException

from ._base import AmplitudeOperator, project_named
from ._kill_order import KINDS, Order, Target, at_least_one, holds_templates, in_words, keys_in, prefix_in, summary
from ._way_down import Job, WayDown, may_pass, seconds_in

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_amplitude_experiment.hooks.guard import GuardedClient
    from airflow_amplitude_experiment.hooks.lookup import Kind


class AmplitudeKillSwitchOperator(AmplitudeOperator):
    """Switch flags and experiments off, all at once, and read back that they are.

    Sends ``enabled: false`` for every object that is not off, in parallel and unpaced, and changes nothing else; an
    object that still shows as enabled afterwards is set to 0 %. Whatever fails for a passing reason is tried every
    few seconds until ``rollback_deadline``, and one object that fails does not hold up the others. Only the
    connection's ``read_only`` stops it. It does not ask whether its run belongs to the past, and it never defers.

    Costs per kind one list before and one after, and one PATCH per object that is not off yet.

    :param keys: keys of the objects; a list, or a text of keys separated by commas. Keys that are not found fail the
        task after the others are off.
    :param key_prefix: instead of ``keys``: every object whose key begins so.
    :param kind: ``flag``, ``experiment`` or ``any``.
    :param max_objects: refuse, before anything is sent, where more objects match.
    :param dry_run: say what would be switched off, and send nothing.
    :param project_id: the objects' project, where the connection names none.
    :param rollback_deadline: how long to go on trying: ``"30m"``, ``"1h"``, seconds or a timedelta. While Amplitude
        answers 429, at least until five minutes after the next 00:00 UTC, when the day's quota is new.
    :param reason: why, for the log and the record.
    :param amplitude_conn_id: id of the Airflow connection.
    :raises AirflowFailException: refused, not found, or not off for a reason that another try can't heal.
    :raises AirflowException: not off at the deadline for a reason that may pass.
    :return: a record: ``objects`` (each ``key``, ``kind``, ``id``, ``project_id``, ``was_enabled``, ``enabled``,
        ``rollout_percentage``, ``written``), the keys ``switched_off``, ``already_off`` and ``would_switch_off``
        (dry run, read-only), ``dry_run``, ``at`` (UTC), ``reason``.

    Source: Management API, "Edit experiment" and "Edit flag" (``enabled``).
    """

    template_fields: Sequence[str] = (
        *AmplitudeOperator.template_fields,
        "keys",
        "key_prefix",
        "kind",
        "max_objects",
        "only_say",
        "project_id",
        "rollback_deadline",
    )
    ui_color = "#ffd9d2"

    def __init__(
        self,
        *,
        keys: Sequence[str] | str | None = None,
        key_prefix: str | None = None,
        kind: Literal["flag", "experiment", "any"] | str = "any",
        max_objects: int | str = 10,
        dry_run: bool | str = False,
        project_id: str | int | None = None,
        rollback_deadline: str | float | timedelta = "1h",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if (keys is None) == (key_prefix is None):
            raise ValueError("Give exactly one of keys, key_prefix")
        self.keys = keys
        self.key_prefix = key_prefix
        self.kind = kind
        self.max_objects = max_objects
        self.only_say = dry_run  # dry_run is a method of every Airflow operator
        self.project_id = project_id
        as_seconds = rollback_deadline.total_seconds() if isinstance(rollback_deadline, timedelta) else None
        self.rollback_deadline = rollback_deadline if as_seconds is None else as_seconds
        self._stop: threading.Event | None = None
        if not holds_templates([keys, key_prefix, kind, max_objects, dry_run, self.rollback_deadline]):
            self._order(None)

    def act(self, context: Context) -> dict[str, Any]:
        """Find, switch off, read back."""
        with self.hook.get_conn(paced=False) as client:
            order = self._order(project_named(self.project_id, client.rules.project_id))
            self._stop = threading.Event()
            kill = _Kill(client, order, self.log, self._stop)
            kill.carry_out()
        return kill.report()

    def on_kill(self) -> None:
        """Stop trying where somebody stops the task."""
        if self._stop is not None:
            self._stop.set()

    def _order(self, project_id: str | None) -> Order:
        """Return what is asked for, once templates are rendered.

        :raises ValueError: a value that can't be meant.
        """
        from airflow_amplitude_experiment.api._checks import Check, boolean, one_of

        one_of(*KINDS)("kind", self.kind)
        return Order(
            keys=None if self.keys is None else keys_in(self.keys),
            prefix=None if self.key_prefix is None else prefix_in(self.key_prefix),
            kinds=KINDS[self.kind],
            most=Check("a whole number of at least 1", at_least_one)("max_objects", self.max_objects),
            dry_run=boolean("dry_run", self.only_say),
            project_id=project_id,
            patience=timedelta(seconds=seconds_in(self.rollback_deadline)),
            reason=self.reason,
        )


class _Kill:
    """One kill, from the first list to the report."""

    def __init__(self, client: GuardedClient, order: Order, log: Any, stop: threading.Event) -> None:
        self._client = client
        self._order = order
        self._log = log
        self._stop = stop
        self._targets: list[Target] = []
        self._unlisted: dict[str, BaseException] = {}

    def carry_out(self) -> None:
        """Find what is asked for, switch it off, look whether it is, and take to 0 % what is not.

        :raises RolloutRefused: what was found is not clear; nothing was sent.
        """
        with WayDown(self._order.patience, log=self._log, stop=self._stop) as way:
            self._find_and_switch_off(way)
            self._read_back(way)
            self._take_to_zero(way)
        self._targets.sort(key=lambda target: (target.kind, target.found.key))

    def _find_and_switch_off(self, way: WayDown) -> None:
        jobs: list[Job] = []
        for listing in way.finished([way.start(self._listing(kind)) for kind in self._order.kinds]):
            if listing.error:
                self._unlisted[listing.about] = listing.error
                continue
            found = [Target(listing.about, each) for each in listing.answer if self._order.matches(each.key)]
            self._targets += found
            if not self._order.needs_every_list:
                jobs += self._switching_off(way, found)
        if self._order.needs_every_list:
            self._order.refuse_what_is_not_clear(self._targets)
            jobs += self._switching_off(way, self._targets)
        self._note(way.finished(jobs))

    def _switching_off(self, way: WayDown, targets: Iterable[Target]) -> list[Job]:
        jobs = []
        for target in targets:
            stands = f"{target} (id {target.found.id}, project {target.found.project_id})"
            if not target.is_on:
                self._log.info("%s is off already, nothing to do", stands)
            elif self._order.dry_run:
                target.unsent = True
                self._log.info("Dry run: would switch off %s, which stands at %s %%", stands, target.percentage)
            else:
                jobs.append(way.start(self._change(target, "Switching off", enabled=False)))
        return jobs

    def _read_back(self, way: WayDown) -> None:
        changed = [target for target in self._targets if target.is_on and not target.unsent]
        kinds = dict.fromkeys(target.kind for target in changed)
        shown: dict[str, Any] = {}
        for listing in way.finished([way.start(self._listing(kind)) for kind in kinds]):
            shown |= {each.id: each for each in listing.answer or ()}
        for target in changed:
            target.now = shown.get(target.found.id)
        self._look_at(way, [target for target in changed if target.now is None or target.now.enabled is None])

    def _take_to_zero(self, way: WayDown) -> None:
        """Take down what is still on the other way, and never up: what stands at 0 % or is not known to be on stays."""
        still_on = [target for target in self._targets if target.still_on and target.now is not None]
        above_zero = [target for target in still_on if target.percentage != 0]
        for target in above_zero:
            self._log.error("%s still shows as enabled; taking it from %s %% to 0 %%", target, target.percentage)
        jobs = [way.start(self._change(target, "Taking to 0 %", rollout_percentage=0)) for target in above_zero]
        self._note(way.finished(jobs))
        self._look_at(way, above_zero)

    def _look_at(self, way: WayDown, targets: Iterable[Target]) -> None:
        """Read objects one by one, where the list says too little of them."""
        for job in way.finished([way.start(self._reading(target)) for target in targets]):
            job.about.now = job.answer or job.about.now
            job.about.error = job.about.error or job.error

    def _note(self, jobs: Iterable[Job]) -> None:
        """Keep what became of each write."""
        from airflow_amplitude_experiment.api import AmplitudeReadOnly

        for job in jobs:
            if isinstance(job.error, AmplitudeReadOnly):
                job.about.unsent = True
            elif job.error:
                job.about.error = job.error
            else:
                job.about.written = True

    # --- what became of it ---------------------------------------------------------------------------

    def report(self) -> dict[str, Any]:
        """Return the record.

        :raises AirflowFailException: something is missing, or still on for a reason that another try can't heal.
        :raises AirflowException: something is still on for a reason that may pass.
        """
        lists = summary(self._targets)
        still_on = [target for target in self._targets if target.still_on]
        by_hand = self._by_hand(None)
        problems = [
            f"The {kind}s could not be read: {error} By hand: {by_hand}." for kind, error in self._unlisted.items()
        ]
        problems += [f"{target.why_on()}. By hand: {self._by_hand(target)}." for target in still_on]
        if missing := self._order.missing(self._targets):
            problems.append(self._not_found(missing))
        if problems:
            errors = [*self._unlisted.values(), *(target.error for target in still_on if target.error)]
            text = "\n".join(["Not everything that was asked for is off.", *problems, in_words(lists)])
            raised = AirflowException if any(map(_may_heal, errors)) else AirflowFailException
            raise raised(text) from next(iter(errors), None)
        self._log.info("Read back as disabled. %s" if lists["switched_off"] else "%s", in_words(lists))
        return {
            "objects": [target.record() for target in self._targets],
            **lists,
            "dry_run": self._order.dry_run,
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "reason": self._order.reason,
        }

    def _not_found(self, missing: list[str]) -> str:
        where = " and ".join(f"{kind}s" for kind in self._order.kinds if kind not in self._unlisted)
        if not where:
            return f"Nothing could be looked at, so nothing is known of {', '.join(missing)}."
        project = f" of project {self._order.project_id}" if self._order.project_id else ""
        names = ", ".join(missing)
        return f"Not found among the {where}{project}: {names}. Archived ones, which reach nobody, were not looked at."

    # --- the requests --------------------------------------------------------------------------------

    def _listing(self, kind: Kind) -> Job:
        from airflow_amplitude_experiment.hooks.lookup import calls_of

        filters: dict[str, Any] = {"project_id": self._order.project_id} if self._order.project_id else {}
        if self._order.keys and len(self._order.keys) == 1:
            filters["key"] = self._order.keys[0]
        call = calls_of(kind).list(**filters)
        return Job(lambda: list(self._client.iterate(call)), f"Reading the {kind}s", self._by_hand(None), kind)

    def _change(self, target: Target, what: str, **fields: Any) -> Job:
        from airflow_amplitude_experiment.hooks.lookup import calls_of

        send = partial(
            self._client.send,
            calls_of(target.kind).update(target.found.id, **fields),
            reason=self._order.reason,
            found=target.now or target.found,
            way_down=True,
        )
        return Job(send, f"{what} {target}", self._by_hand(target), target, writes=True)

    def _reading(self, target: Target) -> Job:
        from airflow_amplitude_experiment.hooks.lookup import calls_of

        send = partial(self._client.send, calls_of(target.kind).get(target.found.id))
        return Job(send, f"Reading {target} back", self._by_hand(target), target)

    def _by_hand(self, target: Target | None) -> str:
        """Return what to click in Amplitude."""
        from airflow_amplitude_experiment.ui.links import APPS, object_url

        if target is None:
            app = f"{APPS.get(self._client.base_url, self._client.base_url)}/experiment"
            return f"open {app}, find {self._order}, and switch Active off in each"
        url = object_url(self._client.base_url, self._client.rules.organization, target.found)
        return f"open {url} (project {target.found.project_id}, {target}) and switch Active off"


def _may_heal(error: BaseException) -> bool:
    """Whether Airflow should try again: an error of our own making, or one that may pass."""
    from airflow_amplitude_experiment.api import AmplitudeError, RolloutRefused

    return may_pass(error) or not isinstance(error, AmplitudeError | RolloutRefused)
