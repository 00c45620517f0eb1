"""One kill, from the first list to the report.

First what is asked for, what forbids it and what became of each object, all of it pure; then the class that sends.
It is apart from the operator because a DAG file that names the operator needs none of it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException

from ._way_down import Job, Stopped, WayDown, aside, may_pass, sentence

if TYPE_CHECKING:
    from airflow_amplitude_experiment.hooks.guard import GuardedClient
    from airflow_amplitude_experiment.hooks.lookup import Kind

    from ._audit import Audit

SECONDS_OF_LAG = 2.0
"""A read may lag behind a write. What still shows as on is read once more after so long."""


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be switched off. Exactly one of ``keys`` and ``prefix`` is there."""

    keys: tuple[str, ...] | None
    prefix: str | None
    kinds: tuple[Kind, ...]
    most: int
    dry_run: bool = False
    project_id: str | None = None
    patience: timedelta = timedelta(hours=1)
    reason: str | None = None

    def __str__(self) -> str:
        names = f"whose key begins with {self.prefix!r}" if self.keys is None else ", ".join(self.keys)
        return f"{' or '.join(self.kinds)} {names}{f' in project {self.project_id}' if self.project_id else ''}"

    @property
    def needs_every_list(self) -> bool:
        """Whether one list had better be judged with the other: how many match, and in which projects."""
        return self.keys is None or self.project_id is None or len(self.keys) * len(self.kinds) > self.most

    def matches(self, key: str) -> bool:
        """Whether an object of this key is meant."""
        return key.startswith(self.prefix) if self.prefix is not None else key in (self.keys or ())

    def missing(self, targets: Iterable[Target]) -> list[str]:
        """Return what was asked for and is not there."""
        seen = {target.found.key for target in targets}
        return [key for key in self.keys or () if key not in seen] or ([] if self.keys or seen else [f"{self.prefix}…"])

    def refuse_what_is_not_clear(self, targets: Sequence[Target]) -> None:
        """Refuse before anything is sent where more, or something else, would be switched off than was meant.

        :raises RolloutRefused: more objects match than allowed, or a key is found in several projects.
        """
        from airflow_amplitude_experiment.api import RolloutRefused
        from airflow_amplitude_experiment.hooks.lookup import refuse_several_projects

        if len(targets) > self.most:
            raise RolloutRefused(
                f"{len(targets)} objects match {self}, more than max_objects={self.most}: "
                f"{', '.join(str(target) for target in targets)}. Nothing was written. "
                f"If all of them are meant, start again with max_objects={len(targets)}."
            )
        projects: dict[str, list[str | None]] = {}
        for target in targets:
            projects.setdefault(target.found.key if self.keys else f"{self.prefix}…", []).append(
                target.found.project_id
            )
        for name, project_ids in projects.items():
            refuse_several_projects(name, project_ids)


@dataclass(slots=True)
class Target:
    """One object on its way off."""

    kind: Kind
    found: Any
    now: Any = None
    written: bool = False
    unsent: bool = False
    error: BaseException | None = None

    def __str__(self) -> str:
        return f"{self.kind} {self.found.key}"

    @property
    def is_on(self) -> bool:
        """Whether it has to be switched off; a list that doesn't show the switch is no reason to spare it."""
        return self.found.enabled is not False

    @property
    def percentage(self) -> int | float | None:
        """Its rollout percentage, as last seen."""
        stands: int | float | None = (self.now or self.found).rollout_percentage
        return stands

    @property
    def stands_at(self) -> str:
        """The same in words; the list of the older API may not show it."""
        return "a percentage that is not shown" if self.percentage is None else f"{self.percentage} %"

    @property
    def still_on(self) -> bool:
        """Whether it was to be switched off, and is not known to be; what is archived reaches nobody."""
        if not self.is_on or self.unsent:
            return False
        return self.now is None or (self.now.enabled is not False and not self.now.deleted)

    def why_on(self) -> str:
        """Say why it may still reach people, and whom."""
        if self.now is None:
            return f"{self} may still be on: {sentence(self.error or Stopped())}"
        accepted = "Amplitude accepted the change and shows it as enabled; an approval may be pending there."
        why = sentence(self.error) if self.error else accepted
        if self.percentage != 0:
            return f"{self} is still on, at {self.stands_at}: {why}"
        sticky = getattr(self.now, "sticky_bucketing", None)
        kept = ", and users who have a variant keep it (sticky bucketing)" if sticky else ""
        return f"{self} is still on, at 0 %: target segments and included users still get it{kept}: {why}"

    def outcome(self, *, switch: bool) -> str:
        """What became of it, for the audit: of switching it off, or else of taking it to 0 %."""
        if self.unsent:
            return "not sent: the connection is read-only"
        if self.still_on and (switch or self.now is None or self.percentage != 0):
            return f"failed: {self.why_on()}"
        return f"done, although: {sentence(self.error)}" if self.error else "written"

    def line(self, *, switch: bool) -> dict[str, Any]:
        """Return what the audit lines say of it: that it is switched off, or else taken to 0 %."""
        stands = self.found.rollout_percentage
        return {
            "kind": self.kind,
            "key": self.found.key,
            "id": self.found.id,
            "project_id": self.found.project_id,
            "before": stands,
            "after": stands if switch else 0,
            "raises": False,
            **({"enabled": {"from": self.found.enabled, "to": False}} if switch else {}),
        }

    def record(self) -> dict[str, Any]:
        """Return what was there and what is there now, as plain JSON."""
        stands = self.now or self.found
        return {
            "key": self.found.key,
            "kind": self.kind,
            "id": self.found.id,
            "project_id": self.found.project_id,
            "was_enabled": self.found.enabled,
            "enabled": stands.enabled,
            "rollout_percentage": stands.rollout_percentage,
            "written": self.written,
        }


def summary(targets: Sequence[Target]) -> dict[str, list[str]]:
    """Sort keys by what became of them."""
    return {
        "switched_off": [
            target.found.key for target in targets if target.is_on and not target.unsent and not target.still_on
        ],
        "already_off": [target.found.key for target in targets if not target.is_on],
        "would_switch_off": [target.found.key for target in targets if target.unsent],
    }


def in_words(lists: dict[str, list[str]]) -> str:
    """Write a summary as sentences; what is empty is left out, but for what was switched off."""
    shown = {name: keys for name, keys in lists.items() if keys or name == "switched_off"}
    return " ".join(
        f"{name.replace('_', ' ').capitalize()}: {', '.join(keys) or 'none'}." for name, keys in shown.items()
    )


class Kill:
    """One kill, from the first list to the report."""

    def __init__(self, client: GuardedClient, order: Order, audit: Audit, log: Any, stop: threading.Event) -> None:
        self._client = client
        self._order = order
        self._audit = audit
        self._log = log
        self._stop = stop
        self._targets: list[Target] = []
        self._unlisted: dict[str, BaseException] = {}

    def carry_out(self) -> None:
        """Find what is asked for, switch it off, look whether it is, and take to 0 % what is not.

        :raises RolloutRefused: what was found is not clear; nothing was sent.
        """
        with WayDown(self._order.patience, log=self._log, stop=self._stop) as way:
            for batch in [aside(self._bring_down, way, targets) for targets in self._found(way)]:
                batch.result()
            if self._stop.is_set():
                for target in self._targets:
                    target.error = target.error or Stopped()
        self._audit.settle()
        self._targets.sort(key=lambda target: (target.kind, target.found.key))

    def _found(self, way: WayDown) -> Iterator[list[Target]]:
        """Yield what is asked for, as soon as it is clear; a list that fails does not hold up what the other shows."""
        from airflow_amplitude_experiment.api import RolloutRefused

        listings = [way.start(self._listing(kind)) for kind in self._order.kinds]
        for group in way.in_groups(listings, at_once=not self._order.needs_every_list):
            self._unlisted |= {listing.about: listing.error for listing in group if listing.error}
            found = [
                Target(listing.about, each)
                for listing in group
                for each in listing.answer or ()
                if self._order.matches(each.key)
            ]
            try:
                self._order.refuse_what_is_not_clear([*self._targets, *found])
            except RolloutRefused as refused:
                if not self._targets:
                    raise
                why = str(refused).replace(
                    "Nothing was written.", "Of these, only what the first list showed was dealt with."
                )
                self._unlisted |= {target.kind: RolloutRefused(why) for target in found}
                continue
            self._targets += found
            yield found

    def _bring_down(self, way: WayDown, targets: list[Target]) -> None:
        """Switch off, look whether it is, and take to 0 % what is not. One that fails does not hold up the others."""
        for group in way.in_groups(self._switching_off(way, targets)):
            self._note(group)
            sent = [job.about for job in group if not job.about.unsent]
            if not self._stop.is_set():
                self._read_back(way, sent)
            self._audit_results((job.about for job in group), switch=True)
            if not self._stop.is_set():
                self._take_to_zero(way, sent)

    def _switching_off(self, way: WayDown, targets: Iterable[Target]) -> list[Job]:
        jobs = []
        for target in targets:
            stands = f"{target} (id {target.found.id}, project {target.found.project_id})"
            if not target.is_on:
                self._log.info("%s is off already, nothing to do", stands)
            elif self._order.dry_run:
                target.unsent = True
                self._log.info("Dry run: would switch off %s, which stands at %s", stands, target.stands_at)
            else:
                self._audit.intent(**target.line(switch=True))
                jobs.append(way.start(self._change(target, "Switching off", enabled=False)))
        return jobs

    def _read_back(self, way: WayDown, targets: list[Target]) -> None:
        kinds = dict.fromkeys(target.kind for target in targets)
        shown: dict[str, Any] = {}
        for listing in way.finished([way.start(self._listing(kind)) for kind in kinds]):
            shown |= {each.id: each for each in listing.answer or ()}
        for target in targets:
            target.now = shown.get(target.found.id)
        self._look_at(way, [target for target in targets if target.now is None or target.now.enabled is None])
        self._look_again(way, targets)

    def _take_to_zero(self, way: WayDown, targets: list[Target]) -> None:
        """Take down what is still on the other way, and never up: what stands at 0 % or is not known to be on stays."""
        above_zero = [target for target in targets if target.still_on and target.now and target.percentage != 0]
        for target in above_zero:
            self._log.error("%s still shows as enabled; taking it from %s to 0 %%", target, target.stands_at)
            self._audit.intent(**target.line(switch=False))
        jobs = [way.start(self._change(target, "Taking to 0 %", rollout_percentage=0)) for target in above_zero]
        self._note(way.finished(jobs))
        self._look_at(way, above_zero)
        self._look_again(way, above_zero)
        self._audit_results(above_zero, switch=False)

    def _look_again(self, way: WayDown, targets: list[Target]) -> None:
        """Read once more what a write that was accepted has not changed yet: reading may lag behind."""
        if lagging := [target for target in targets if target.written and target.still_on]:
            way.rest(SECONDS_OF_LAG)
            self._look_at(way, lagging)

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

    def _audit_results(self, targets: Iterable[Target], *, switch: bool) -> None:
        for target in targets:
            self._audit.result(**target.line(switch=switch), outcome=target.outcome(switch=switch), wait=False)

    # --- what became of it ---------------------------------------------------------------------------

    def changes(self) -> list[dict[str, Any]]:
        """Return what was written and read back as off, object by object."""
        facts = self._audit.facts()
        return [
            {**target.line(switch=True), "enabled": False, **facts}
            for target in self._targets
            if target.written and not target.still_on
        ]

    def report(self) -> dict[str, Any]:
        """Return the record.

        :raises AirflowFailException: something is missing, or still on for a reason that another try can't heal.
        :raises AirflowException: something is still on for a reason that may pass.
        """
        from airflow_amplitude_experiment.api import RolloutRefused

        lists = summary(self._targets)
        still_on = [target for target in self._targets if target.still_on]
        by_hand = self._by_hand(None)
        problems = [
            f"The {kind}s {'were left alone' if isinstance(error, RolloutRefused) else 'could not be read'}: "
            f"{sentence(error)} By hand: {by_hand}."
            for kind, error in self._unlisted.items()
        ]
        problems += [f"{target.why_on()} By hand: {self._by_hand(target)}." for target in still_on]
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
            **self._audit.facts(),
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
