"""What a sync task does: read, ask :mod:`airflow_amplitude_experiment.rollout.inclusions`, send, read back.

Apart from the operators because it is loaded when a task runs, not when a DAG is parsed.

Removals are sent before additions. Only so is the cap of a variant never passed on the way: a full one whose people
are exchanged would hold up to twice as many in between, and Amplitude would refuse that half way. Whoever stays is in
neither list and loses nothing, and a crash in between leaves fewer people in, never more. What would stop the
additions (a freeze, a limit on percentages) is therefore looked at before the first removal.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

from airflow_amplitude_experiment.api import AmplitudeError, Call, deployments
from airflow_amplitude_experiment.api.errors import error_from_dict
from airflow_amplitude_experiment.hooks.freeze import Freeze
from airflow_amplitude_experiment.hooks.moves import lets_in, own_rises
from airflow_amplitude_experiment.hooks.projects import listed
from airflow_amplitude_experiment.hooks.write import Write
from airflow_amplitude_experiment.rollout import inclusions
from airflow_amplitude_experiment.rollout.inclusions import Change, Limit, Mode

from ._edit import Edit
from ._sources import Source

WITHHELD = "its text may name users and is not repeated here; it stands in this task's log at the level DEBUG."


class Order(NamedTuple):
    """What is asked for, checked; the source is read."""

    side: Literal["users", "cohorts"]
    variant: str
    source: Source
    mode: Mode
    keep: frozenset[str]
    max_change: Limit | None
    check_other_variants: bool
    into_running_experiment: bool
    allow_readable_ids: bool

    @property
    def noun(self) -> str:
        """What is included: ``user`` or ``cohort``."""
        return self.side.removesuffix("s")


class Sync:
    """One sync of one variant.

    :param edit: the object, as it was read.
    """

    def __init__(self, edit: Edit, order: Order) -> None:
        self.edit = edit
        self.order = order
        self.what = f"{edit.name}, variant {order.variant!r}"
        self._to_send: Change | None = None

    def run(self) -> dict[str, Any]:
        """Read, decide, write where something differs, read back; return the record."""
        variants = self._variants()
        inclusions.refuse_unknown_variant(self.edit.name, self.order.variant, variants)
        change = self._difference()
        self._refuse_those_elsewhere(variants)
        if not change.size:
            self._tell(change, "nothing to do")
            return self._record(change, into_running_experiment=False)
        running = inclusions.is_running_experiment(self.edit.kind, self.edit.found, variants)
        self._refuse(change, running=running)
        self._to_send = change
        if self.edit.again_where_lost(self._send_all):
            self.edit.confirm(self._left)
            self.edit.written = True  # also where the answer was lost or a refusal, and reading again found it done
            self._tell(change, "written and read back")
        else:
            self._tell(change, "would be written (read-only, not sent)")
        return self._record(change, into_running_experiment=running)

    # --- reading ------------------------------------------------------------------------------------------------

    def _variants(self) -> list[str]:
        """Return the keys of the object's variants, which nearly every answer shows."""
        found = self.edit.found
        shown = found.variants or self.edit.client.send(self.edit.calls.variants(found.id))
        return [each.key for each in shown]

    def _included(self, variant: str) -> list[str]:
        with self._naming_nobody():
            found: list[str] = self.edit.client.send(self._call(self.order.side, variant))
        return found

    def _difference(self) -> Change:
        """Read who is there, and return what is left to do."""
        order = self.order
        present = self._included(order.variant)
        return inclusions.difference(present, order.source.ids, mode=order.mode, keep=order.keep)

    def _left(self) -> list[str]:
        """Read back, and say what does not stand as wanted."""
        change, where = self._difference(), f"in variant {self.order.variant!r}"
        missing = [f"{len(change.add):,} {self.order.noun}s are missing {where}"] if change.add else []
        still = [f"{len(change.remove):,} {self.order.noun}s are still {where}"] if change.remove else []
        return [*missing, *still]

    # --- refusing -----------------------------------------------------------------------------------------------

    def _refuse_those_elsewhere(self, variants: list[str]) -> None:
        """Read the other variants, and refuse whoever stands in one; a removal moves nobody into a second one."""
        if self.order.mode == "remove" or not self.order.check_other_variants:
            return
        others = {each: self._included(each) for each in variants if each != self.order.variant}
        inclusions.refuse_elsewhere(self.what, self.order.source.ids, others, noun=self.order.noun)

    def _refuse(self, change: Change, *, running: bool) -> None:
        """Refuse what must not be written, before anything is."""
        order = self.order
        if running and not order.into_running_experiment:
            inclusions.refuse_running(self.what, change, noun=order.noun)
        if order.max_change is not None:
            inclusions.refuse_large_change(self.what, change, order.max_change, noun=order.noun)
        if order.side == "users":
            inclusions.refuse_above_cap(self.what, change)
            if not order.allow_readable_ids and inclusions.readable(change.add):
                inclusions.refuse_readable(self.what, change.add, self._client_deployments())
        if change.add:
            self._refuse_what_rules_forbid(change)

    def _client_deployments(self) -> list[str]:
        """Return the client deployments that serve the object for local evaluation, by their labels."""
        found = self.edit.found
        if found.evaluation_mode == "remote" or found.deployments == []:
            return []
        return [
            each.label or each.id
            for each in self.edit.client.read(listed(deployments.list()))
            if inclusions.serves_clients(each) and (found.deployments is None or each.id in found.deployments)
        ]

    def _refuse_what_rules_forbid(self, change: Change) -> None:
        """Refuse additions that the connection's limits or a freeze would stop once the removals are sent."""
        found, rules, freeze = self.edit.found, self.edit.client.rules, Freeze.now()
        if not (rules.limit_percentages or freeze.may_name(found.key)):
            return
        call = self._call(f"add_{self.order.side}", self.order.variant, list(change.add))
        write = Write.of(call, dialect=self.edit.client.dialect)
        rises = list(own_rises(write.function, write.arguments, found))
        rules.check_rises(rises, self.what)
        freeze.check_rises(found.key, [*rises, *lets_in(write.function, write.arguments, found)], self.what)

    # --- writing ------------------------------------------------------------------------------------------------

    def _send_all(self) -> bool:
        """Send the difference, read anew after a request whose fate is unknown; false where none may be sent."""
        change = self._to_send or self._difference()
        self._to_send = None
        sent = [self._send("remove", each) for each in inclusions.in_chunks(change.remove)]
        sent += [self._send("add", each) for each in inclusions.in_chunks(change.add)]
        return all(sent)

    def _send(self, step: Literal["add", "remove"], ids: list[str]) -> bool:
        """Send one request; false where the connection is read-only."""
        call = self._call(f"{step}_{self.order.side}", self.order.variant, ids)
        facts = {"variant": self.order.variant, f"{self.order.side}_to_{step}": len(ids)}
        try:
            with self._naming_nobody():
                return self.edit.unless_read_only(lambda: self.edit.send(call, **facts))
        except AmplitudeError as error:
            if not self._stands_although_refused(error, step, ids):
                raise
            return True

    def _stands_although_refused(self, error: AmplitudeError, step: str, ids: list[str]) -> bool:
        """Whether Amplitude refused only because there was nothing to do; it has answered so with a 403 (D3)."""
        if error.status not in (400, 403, 404):
            return False
        there = set(self._included(self.order.variant))
        if there.issuperset(ids) if step == "add" else there.isdisjoint(ids):
            self.edit.log.info(
                "%s: Amplitude answered %s, but all %s stand as wanted", self.what, error.status, len(ids)
            )
            return True
        return False

    @contextmanager
    def _naming_nobody(self) -> Iterator[None]:
        """Take Amplitude's own text out of an error about users: it may name them (law 8)."""
        try:
            yield
        except AmplitudeError as error:
            if self.order.side == "cohorts" or error.status is None or error.status < 400:
                raise
            self.edit.log.debug("%s", error)
            raise error_from_dict({**error.as_dict(), "text": WITHHELD}) from None

    def _call(self, function: str, *arguments: Any) -> Call[Any]:
        call: Call[Any] = getattr(self.edit.calls, function)(self.edit.found.id, *arguments)
        return call

    # --- reporting ----------------------------------------------------------------------------------------------

    def _tell(self, change: Change, outcome: str) -> None:
        source = self.order.source
        skipped = ", ".join(f"{count:,} {why}" for why, count in source.skipped.items() if count) or "none skipped"
        self.edit.log.info(
            "%s, %ss: %s, %s. Mode %s, from %s: %s rows, %s.",
            *(self.what, self.order.noun, change, outcome),
            *(self.order.mode, source.where, f"{source.read:,}", skipped),
        )

    def _record(self, change: Change, **facts: Any) -> dict[str, Any]:
        source = self.order.source
        return self.edit.record(
            variant=self.order.variant,
            mode=self.order.mode,
            before=change.before,
            added=len(change.add),
            removed=len(change.remove),
            after=change.after,
            kept=change.kept,
            read=source.read,
            skipped=source.skipped,
            source=source.where,
            **facts,
        )
