"""Say which deployments serve a flag or an experiment.

A deployment is one application's view of a project: without one, nobody is served. Who adds a deployment to an object
that is enabled shows it to that application's users at once, at the percentages that stand.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from airflow_amplitude_experiment.api._checks import boolean, identifier, list_of, one_of
from airflow_amplitude_experiment.api.errors import RolloutRefused

from ._base import AmplitudeEditOperator, AmplitudeTargetOperator, given, is_known
from ._described import structured
from ._run import begun

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from ._edit import Edit
    from ._run import Begun

MODE = one_of("add", "remove", "replace")
NAMES = list_of(identifier._replace(private=True))
"""What is wrong in the list is not repeated: somebody may have given deployments as the API lists them, with keys."""


class Order(NamedTuple):
    """What is asked for.

    :param names: ids or labels.
    :param run: the run that asks; ``None`` outside of one.
    """

    names: list[str]
    mode: str
    allow_empty: bool
    run: Begun | None = None


class AmplitudeAssignDeploymentsOperator(AmplitudeEditOperator):
    """Say which deployments serve one flag or experiment.

    Reads the object, sends only what differs (what is added in one request, then what is removed, one by one, so that
    there is no moment without any), and reads back. Where everything stands as asked already, nothing is written. The
    deployments of the project are listed only where a name must be looked up. An archived deployment, or one of
    another project, is not added. A run of the past is skipped. A write whose answer was lost is decided anew; a
    deployment that this run added and somebody took off since is not added again by a retry or a cleared task.

    :param deployments: ids, or labels as Amplitude shows them; never keys. A label that two deployments have must be
        given by id.
    :param mode: ``add`` what is given, ``remove`` it, or ``replace`` all that are there by it.
    :param allow_empty: take the last deployment off an object that is enabled, so that nobody is served any more;
        and let ``replace`` with an empty list mean that.
    :param experiment_key, experiment_id, flag_key, flag_id: the object; exactly one.
    :param project_id: its project, where the connection names none.
    :param reason: why, for the log and the record; the connection may require it.
    :param amplitude_conn_id: id of the Airflow connection.
    :raises AirflowFailException: refused, not confirmed by reading back, or an error that another try can't heal.
    :return: a record: ``kind``, ``key``, ``id``, ``project_id``, ``deployments`` (ids as they stand then), ``added``,
        ``removed``, ``enabled``, ``written``, ``at`` (UTC), ``reason``, and where it came from. With a read-only
        connection ``added`` and ``removed`` are what would be.

    Source: Management API, "Add deployment" (``POST …/{id}/deployments``) and "Remove deployment".
    """

    template_fields: Sequence[str] = (*AmplitudeTargetOperator.template_fields, "deployments", "mode", "allow_empty")
    template_fields_renderers: ClassVar[dict[str, str]] = {"deployments": "json"}

    def __init__(
        self,
        *,
        deployments: Sequence[str | int] | str,
        mode: Literal["add", "remove", "replace"] | str = "add",
        allow_empty: bool | str = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.deployments = deployments
        self.mode = mode
        self.allow_empty = allow_empty
        if all(is_known(each) for each in (deployments, mode, allow_empty)):
            self._order()

    def order(self, context: Context) -> Order:
        """Return what is asked for, checked once templates are rendered."""
        return self._order()._replace(run=begun(context))

    def _order(self) -> Order:
        mode = MODE("mode", given(self.mode) or "add")
        allow_empty = boolean("allow_empty", given(self.allow_empty) or False)
        names = NAMES("deployments", structured("deployments", self.deployments))
        if not names and mode == "replace" and not allow_empty:
            raise ValueError(
                "deployments is an empty list, and mode='replace' would take every deployment off; pass "
                "allow_empty=True if that is meant"
            )
        return Order(list(dict.fromkeys(names)), mode, allow_empty)

    def edit(self, edit: Edit, order: Order) -> dict[str, Any]:
        """Send what differs, and read back."""
        assignment = _Assignment(edit, order)
        assignment.refuse_unfit()
        if assignment.differs and edit.unless_read_only(lambda: edit.again_where_lost(assignment.send)):
            edit.confirm(assignment.left)
        self.log.info("%s: %s", self.target, assignment.in_words())
        return edit.record(
            deployments=assignment.attached,
            added=assignment.coming,
            removed=assignment.going,
            enabled=edit.found.enabled,
        )


class _Assignment:
    """What is to be attached to one object, and what is to be taken off.

    :raises RolloutRefused: a name that is no deployment's, or two's.
    """

    def __init__(self, edit: Edit, order: Order) -> None:
        self._edit = edit
        self._order = order
        self._known: dict[str, Any] = {}
        self._hidden = edit.found.deployments is None
        before = self.attached
        ids = self._ids(before)
        self.coming = [] if order.mode == "remove" else [each for each in ids if each not in before]
        going = {"add": [], "remove": ids, "replace": [each for each in before if each not in ids]}[order.mode]
        self.going = [each for each in before if each in going]
        self._tries = 0

    @property
    def attached(self) -> list[str]:
        """Ids of the deployments that serve the object, as it was last read."""
        found = self._edit.found
        if found.deployments is None:
            shown = self._edit.client.send(self._edit.calls.deployments(found.id))
            found = self._edit.found = found.model_copy(update={"deployments": [each.id for each in shown]})
        return list(found.deployments)

    @property
    def differs(self) -> bool:
        """Whether there is anything to send."""
        return bool(self.coming or self.going)

    def refuse_unfit(self) -> None:
        """Refuse what must not be sent.

        :raises RolloutRefused: a deployment that is archived or of another project, one that somebody took off since,
            or the last one of an object that is enabled.
        """
        found = self._edit.found
        for each in map(self._deployment, self.coming):
            if each.project_id != found.project_id:
                raise self._refused(
                    f"{_name(each)} belongs to project {each.project_id}, not {found.project_id}",
                    "Name one of the object's own project.",
                )
            if each.deleted:
                raise self._refused(f"{_name(each)} is archived and serves nothing", "Restore it, or name another.")
        stays = [each for each in self.attached if each not in self.going] + self.coming
        if self.going and not stays and found.enabled is not False and not self._order.allow_empty:
            raise self._refused(
                f"{self._in_words(self.going)} serve(s) it alone, and it is enabled: nobody would be served any more",
                "To stop it, use AmplitudeKillSwitchOperator; or state that this is meant: allow_empty=True.",
            )
        if self.coming and (run := self._order.run) and run.again:
            self._refuse_what_was_taken_off(run.since)

    def send(self) -> None:
        """Attach first, then take off; where an answer was lost, only what is still to be done."""
        edit = self._edit
        if self._tries:
            self._read()
        self._tries += 1
        if missing := [each for each in self.coming if each not in self.attached]:
            edit.send(edit.calls.add_deployments(edit.found.id, missing), added=missing)
        for each in [each for each in self.going if each in self.attached]:
            edit.send(edit.calls.remove_deployment(edit.found.id, each), removed=[each])
        edit.written = True  # also where all of it was in a request whose answer was lost

    def left(self) -> list[str]:
        """Read back, and say what does not stand as it was written."""
        self._read()
        left = [f"it lacks {self._in_words([each])}" for each in self.coming if each not in self.attached]
        return left + [f"it still has {self._in_words([each])}" for each in self.going if each in self.attached]

    def _read(self) -> None:
        """Read the object again, and its deployments with it where the object does not show them."""
        found = self._edit.read()
        if self._hidden:
            self._edit.found = found.model_copy(update={"deployments": None})

    def in_words(self) -> str:
        """Say what was done, for the log."""
        stands = f"served by {self._in_words(self.attached) or 'no deployment'}"
        if not self.differs:
            return f"{stands}, as asked; nothing is written"
        done = [
            f"{word} {self._in_words(ids)}" for word, ids in (("added", self.coming), ("removed", self.going)) if ids
        ]
        if not self._edit.written:
            return f"would be changed (read-only, not sent): {', '.join(done)}"
        return f"{', '.join(done)}; now {stands}"

    def _ids(self, before: Sequence[str]) -> list[str]:
        """Return the ids of what is named; the project's deployments are listed only where that needs a look."""
        found = {name: name if name in before else self._id_of(name) for name in self._order.names}
        if unknown := [name for name, each in found.items() if each is None]:
            there = self._in_words([each.id for each in self._all().values() if self._is_of_project(each)])
            raise self._refused(
                f"there is no deployment {', '.join(map(_cut, unknown))}; in project "
                f"{self._edit.found.project_id} there are {there or 'none'}",
                "Name them by id or label, never by key.",
            )
        return list(dict.fromkeys(each for each in found.values() if each is not None))

    def _id_of(self, name: str) -> str | None:
        """Return the id of a deployment that is named by id, or else by the label that it alone has in the project."""
        if name in self._all():
            return name
        labelled = [each for each in self._all().values() if each.label == name and self._is_of_project(each)]
        labelled = [each for each in labelled if not each.deleted] or labelled
        if len(labelled) > 1:
            raise self._refused(
                f"{len(labelled)} deployments have the label {name}",
                f"Name one: {self._in_words(each.id for each in labelled)}.",
            )
        return labelled[0].id if labelled else None

    def _all(self) -> dict[str, Any]:
        """List every deployment that the key sees, once."""
        from airflow_amplitude_experiment.api import deployments

        if not self._known:
            self._known = {each.id: each for each in self._edit.client.iterate(deployments.list())}
        return self._known

    def _deployment(self, deployment_id: str) -> Any:
        return self._all()[deployment_id]

    def _is_of_project(self, deployment: Any) -> bool:
        return bool(deployment.project_id == self._edit.found.project_id)

    def _refuse_what_was_taken_off(self, since: datetime) -> None:
        """Refuse to add what somebody took off since the run began (law 9)."""
        from airflow_amplitude_experiment.rollout.history import written_at

        edit = self._edit
        versions = edit.client.send(edit.calls.versions(edit.found.id))
        for earlier, later in pairwise(sorted(versions, key=lambda version: version.version)):
            moment = written_at(later)
            gone = _shown(earlier) - _shown(later)
            if (moment is None or moment >= since) and (undone := [each for each in self.coming if each in gone]):
                raise self._refused(
                    f"{self._in_words(undone)} was taken off in version {later.version} at {later.created_at}, after "
                    "this run began",
                    "To add it again, trigger a new run by hand.",
                )

    def _in_words(self, ids: Iterable[str]) -> str:
        return ", ".join(_name(self._known[each]) if each in self._known else each for each in ids)

    def _refused(self, why: str, advice: str) -> RolloutRefused:
        return RolloutRefused(f"{self._edit.name}: {why}. Nothing was written. {advice}")


def _shown(version: Any) -> set[str]:
    """Return the deployments of a version."""
    return {str(each) for each in getattr(version.flag_config, "deployments", None) or ()}


def _cut(name: str) -> str:
    """Return a name that is no deployment's; somebody may have given a key, which stands in no text whole."""
    return name if len(name) <= 20 else f"{name[:10]}…"


def _name(deployment: Any) -> str:
    """Name a deployment by label and id; its key is a secret."""
    return f"{deployment.label} ({deployment.id})" if deployment.label else str(deployment.id)
