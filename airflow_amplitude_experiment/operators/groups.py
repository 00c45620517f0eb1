"""Create mutual exclusion groups and holdout groups, and change who is in them.

A group stands between its members and their users, so whoever changes it moves the traffic of experiments that
other people run. Members are named by key, as engineers know them, or by id.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from airflow.providers.common.compat.sdk import BaseOperatorLink

from airflow_amplitude_experiment.api import _checks as check
from airflow_amplitude_experiment.ui.links import OpenInAmplitudeLink

from ._base import AmplitudeOperator, given, is_known, project_named
from ._described import structured
from ._group_fields import FIELDS, LISTS

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from ._groups import Groups


class _GroupOperator(AmplitudeOperator):
    """What the operators on groups share; their docstrings tell the rest.

    :param fields: the arguments that say what is asked for, checked by ``FIELDS``.
    """

    kind: ClassVar[Literal["mutex group", "holdout group"]]
    fields: ClassVar[tuple[str, ...]]
    needed: ClassVar[tuple[str, ...]] = ()
    writes_objects = True
    operator_extra_links: Collection[BaseOperatorLink] = (OpenInAmplitudeLink(),)
    template_fields: Sequence[str] = (*AmplitudeOperator.template_fields, "project_id", "while_running")

    def __init__(
        self, *, project_id: str | int | None = None, while_running: bool | str = False, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.project_id = project_id
        self.while_running = while_running

    def act(self, context: Context) -> dict[str, Any]:
        """Settle what is asked for, then let the group be created or changed."""
        from ._groups import Groups
        from ._past import skip_in_the_past

        skip_in_the_past(context, self.log)
        order = self._checked({name: getattr(self, name) for name in self._asked()})
        if missing := [name for name in self.needed if name not in order]:
            raise ValueError(f"{missing[0]} is empty; was it left out of the form or the conf?")
        while_running = order.pop("while_running", False)
        with self.hook.get_conn() as client:
            project = project_named(self.project_id, client.rules.project_id)
            groups = Groups(self, context, client, kind=self.kind, project=project, while_running=while_running)
            return self.change(groups, order)

    @abstractmethod
    def change(self, groups: Groups, order: dict[str, Any]) -> dict[str, Any]:
        """Create or change the group, and return the record."""

    def _check_what_is_known(self) -> None:
        """Refuse while the DAG is parsed what no template can mend."""
        values = {name: getattr(self, name) for name in self._asked()}
        if missing := [name for name in self.needed if values[name] is None or values[name] == ""]:
            raise ValueError(f"{missing[0]} is missing")
        self._checked({name: value for name, value in values.items() if is_known(value)})

    def _asked(self) -> tuple[str, ...]:
        return (*self.fields, "while_running")

    def _checked(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments that were given, checked."""
        order = {}
        for name, value in values.items():
            if given(value) is not None:
                order[name] = FIELDS[name](name, structured(name, value) if name in LISTS else value)
        check.refuse_local_amplitude_id(dict(order))
        return order


class _CreateGroupOperator(_GroupOperator):
    """What both creates share."""

    template_fields: Sequence[str] = (*_GroupOperator.template_fields, "key")

    def __init__(
        self,
        *,
        key: str,
        name: str | None = None,
        description: str | None = None,
        evaluation_mode: Literal["local", "remote"] | str | None = None,
        bucketing_key: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.key = key
        self.name = name
        self.description = description
        self.evaluation_mode = evaluation_mode
        self.bucketing_key = bucketing_key
        if isinstance(key, str) and not key.strip():
            raise ValueError(f"key is {key!r}, but must name the {self.kind}")

    def change(self, groups: Groups, order: dict[str, Any]) -> dict[str, Any]:
        """Go on with the group of this key, or create it."""
        if given(self.key) is None:
            raise ValueError(f"The {self.kind} is named by an empty text; was it left out of the form or the conf?")
        return groups.create(check.name("key", self.key).strip(), order)


class _UpdateGroupOperator(_GroupOperator):
    """What both updates share."""

    template_fields: Sequence[str] = (*_GroupOperator.template_fields, "mode")

    def __init__(self, *, mode: Literal["add", "remove", "replace"] | str = "add", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.mode = mode

    def _change(self, groups: Groups, order: dict[str, Any], key: Any, object_id: Any) -> dict[str, Any]:
        """Change the group of this key or id."""
        self._require_one_name(key, object_id)
        self._require_change(order)
        if (key := given(key)) is not None:
            return groups.update("key", check.name("key", key).strip(), order)
        return groups.update("id", str(check.numeric_id("id", object_id)), order)

    def _require_change(self, values: Mapping[str, Any]) -> None:
        changes = [name for name in self.fields if name not in ("mode", "slot")]
        if all(values.get(name) is None for name in changes):
            raise ValueError(f"Nothing is to be changed; give at least one of {', '.join(changes)}")

    def _require_one_name(self, key: Any, object_id: Any) -> None:
        named = [each for each in (key, object_id) if given(each) is not None]
        if len(named) != 1:
            raise ValueError(
                f"Name the {self.kind} by exactly one of its key and its id; given: {'both' if named else 'none'}"
            )


class AmplitudeCreateMutexGroupOperator(_CreateGroupOperator):
    """Create a mutual exclusion group, or go on with the one of this key.

    A person falls into one slot, and a member serves only the people of its slots. Looks by key first; where there
    is no such group it is created once and read back. A create whose answer was lost is looked for before anything
    is sent again, so there is never a second group. One that is there must have the described slots, and in them
    the described members; more may be in it, because a later task or another team added them. Nothing is written to
    it: members come and go by :class:`AmplitudeUpdateMutexSlotOperator`, and slots are fixed for ever.

    A member that is running is refused, because it loses users at once. One that is given as a number, or as a text of
    digits only, is named by its id; every other text is a key. A member whose key is all digits must be given by its
    id. A run of the past is skipped.

    :param key: key of the group, unique in its project among flags, experiments and groups.
    :param slots: 1 to 20 of ``{"percentage": …, "experiments": […], "holdouts": […], "individuals": […]}``; only the
        percentage is needed, whole, and all of them must sum to 100 (add an empty slot for the rest). Experiments
        and holdout groups by key or id. One that stands in several slots gets the people of all of them.
        ``individuals`` are ids of users who always fall into this slot; nobody may stand in two.
    :param name, description: texts for people; the name is the key where it is left out.
    :param evaluation_mode: ``local`` or ``remote`` (Amplitude's default); a local member needs a local group.
    :param bucketing_key: what people are told apart by; ``amplitude_id``, or ``user_id`` for local evaluation.
    :param bucketing_salt: two groups of one salt cut people alike.
    :param project_id: its project, where the connection names none.
    :param while_running: put running members into it all the same.
    :param reason: why, for the log and the record; the connection may require it.
    :param amplitude_conn_id: id of the Airflow connection.
    :raises AirflowFailException: refused (the text lists everything), not confirmed by reading back, or an error that
        another try can't heal.
    :return: a record: ``kind``, ``key``, ``id``, ``project_id``, ``url``, ``created``, ``adopted``, ``slots`` (each
        ``index``, ``percentage``, ids of ``experiments`` and ``holdouts``, number of ``individuals``), ``running``
        (members that were running, in words), ``written``, ``at``, ``reason``, and where it came from.

    Source: Management API, "Create mutex" (``POST /mutexes``).
    """

    kind = "mutex group"
    fields = ("slots", "name", "description", "evaluation_mode", "bucketing_key", "bucketing_salt")
    needed = ("slots",)
    template_fields: Sequence[str] = (*_CreateGroupOperator.template_fields, *fields)
    template_fields_renderers: ClassVar[dict[str, str]] = {"slots": "json"}

    def __init__(
        self, *, slots: Sequence[Mapping[str, Any]] | str, bucketing_salt: str | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.slots = slots
        self.bucketing_salt = bucketing_salt
        self._check_what_is_known()


class AmplitudeCreateHoldoutGroupOperator(_CreateGroupOperator):
    """Create a holdout group, or go on with the one of this key.

    A share of all people is kept out of every member. Works as :class:`AmplitudeCreateMutexGroupOperator`: looks by
    key, creates once, reads back; one that is there must hold what is described, and may hold more. Members come and
    go by :class:`AmplitudeUpdateHoldoutGroupOperator`; the percentage is fixed for ever.

    :param key: key of the group, unique in its project among flags, experiments and groups.
    :param holdout_percentage: whole, 1 to 99; Amplitude advises 1 to 10, above that a warning is logged.
    :param experiments: members, by key or id.
    :param individual_inclusion, individual_exclusion: ids of users who are always, or never, held out.
    :param name, description, evaluation_mode, bucketing_key, project_id, while_running, reason, amplitude_conn_id: as
        for a mutex group.
    :raises AirflowFailException: as for a mutex group.
    :return: a record as for a mutex group; instead of ``slots`` it has ``holdout_percentage``, ``experiments`` (ids),
        and the numbers ``individual_inclusion`` and ``individual_exclusion``.

    Source: Management API, "Create holdout" (``POST /holdouts``).
    """

    kind = "holdout group"
    fields = (
        "holdout_percentage",
        "experiments",
        "individual_inclusion",
        "individual_exclusion",
        "name",
        "description",
        "evaluation_mode",
        "bucketing_key",
    )
    needed = ("holdout_percentage",)
    template_fields: Sequence[str] = (*_CreateGroupOperator.template_fields, *fields)

    def __init__(
        self,
        *,
        holdout_percentage: int | str,
        experiments: Sequence[str | int] | str | None = None,
        individual_inclusion: Sequence[str | int] | str | None = None,
        individual_exclusion: Sequence[str | int] | str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.holdout_percentage = holdout_percentage
        self.experiments = experiments
        self.individual_inclusion = individual_inclusion
        self.individual_exclusion = individual_exclusion
        self._check_what_is_known()


class AmplitudeUpdateMutexSlotOperator(_UpdateGroupOperator):
    """Put members into one slot of a mutual exclusion group, take them out, or say who is in it.

    Reads the group, sends the lists that change, each whole, and reads the slot back. Where everything stands as
    asked already, nothing is written. A member that is running is refused, whether it comes or goes, because who
    gets it changes at once. A slot that holds cohorts is refused: the API shows them and can't write them, and
    nobody says whether they survive. A run of the past is skipped.

    :param mutex_key, mutex_id: the group; exactly one.
    :param slot: the slot's own ``index``, as the API shows it and the record of a create lists it.
    :param experiments, holdouts: members by key or id; a number or a text of digits is an id.
    :param individuals: ids of users who always fall into this slot.
    :param mode: ``add`` what is given, ``remove`` it, or ``replace`` each given list whole; a list that is left out
        stays as it is.
    :param project_id: its project, where the connection names none.
    :param while_running: change running members all the same.
    :param reason: why, for the log and the record; the connection may require it.
    :param amplitude_conn_id: id of the Airflow connection.
    :raises AirflowFailException: refused, not confirmed by reading back, or an error that another try can't heal.
    :return: a record: ``kind``, ``key``, ``id``, ``project_id``, ``slot``, ``percentage``, ids of ``experiments`` and
        ``holdouts`` and the number of ``individuals`` as they stand then, ``added`` and ``removed`` (ids of members,
        number of individuals), ``running`` (who of them was running, in words), ``written``, ``at``, ``reason``, and
        where it came from. With a read-only connection ``added`` and ``removed`` are what would be.

    Source: Management API, "Edit mutex slot" (``PATCH /mutexes/{id}/slots/{slotIndex}``).
    """

    kind = "mutex group"
    fields = ("slot", "experiments", "holdouts", "individuals", "mode")
    needed = ("slot",)
    template_fields: Sequence[str] = (
        *_UpdateGroupOperator.template_fields,
        "mutex_key",
        "mutex_id",
        "slot",
        "experiments",
        "holdouts",
        "individuals",
    )

    def __init__(
        self,
        *,
        slot: int | str,
        mutex_key: str | None = None,
        mutex_id: str | int | None = None,
        experiments: Sequence[str | int] | str | None = None,
        holdouts: Sequence[str | int] | str | None = None,
        individuals: Sequence[str | int] | str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.mutex_key = mutex_key
        self.mutex_id = mutex_id
        self.slot = slot
        self.experiments = experiments
        self.holdouts = holdouts
        self.individuals = individuals
        self._require_one_name(mutex_key, mutex_id)
        self._require_change(vars(self))
        self._check_what_is_known()

    def change(self, groups: Groups, order: dict[str, Any]) -> dict[str, Any]:
        """Change the lists of one slot."""
        return self._change(groups, order, self.mutex_key, self.mutex_id)


class AmplitudeUpdateHoldoutGroupOperator(_UpdateGroupOperator):
    """Change the members of a holdout group, whom it always or never holds out, and its texts.

    Works as :class:`AmplitudeUpdateMutexSlotOperator`: reads, sends what changes, each list whole, and reads back. A
    member that is running is refused, whether it comes or goes. Archiving is not offered: it frees every member at
    once, and whether it can be undone is not known.

    :param holdout_key, holdout_id: the group; exactly one.
    :param experiments: members by key or id; a number or a text of digits is an id.
    :param individual_inclusion, individual_exclusion: ids of users who are always, or never, held out.
    :param mode: ``add`` what is given, ``remove`` it, or ``replace`` each given list whole.
    :param name, description: new texts.
    :param project_id, while_running, reason, amplitude_conn_id: as for a slot.
    :raises AirflowFailException: as for a slot.
    :return: a record as for a slot: ``experiments`` (ids), the numbers ``individual_inclusion`` and
        ``individual_exclusion``, ``added``, ``removed``, ``updated`` (names of texts).

    Source: Management API, "Edit holdout" (``PATCH /holdouts/{id}``).
    """

    kind = "holdout group"
    fields = ("experiments", "individual_inclusion", "individual_exclusion", "name", "description", "mode")
    template_fields: Sequence[str] = (
        *_UpdateGroupOperator.template_fields,
        "holdout_key",
        "holdout_id",
        "experiments",
        "individual_inclusion",
        "individual_exclusion",
        "name",
        "description",
    )

    def __init__(
        self,
        *,
        holdout_key: str | None = None,
        holdout_id: str | int | None = None,
        experiments: Sequence[str | int] | str | None = None,
        individual_inclusion: Sequence[str | int] | str | None = None,
        individual_exclusion: Sequence[str | int] | str | None = None,
        name: str | None = None,
        description: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.holdout_key = holdout_key
        self.holdout_id = holdout_id
        self.experiments = experiments
        self.individual_inclusion = individual_inclusion
        self.individual_exclusion = individual_exclusion
        self.name = name
        self.description = description
        self._require_one_name(holdout_key, holdout_id)
        self._require_change(vars(self))
        self._check_what_is_known()

    def change(self, groups: Groups, order: dict[str, Any]) -> dict[str, Any]:
        """Change the group's lists and texts."""
        return self._change(groups, order, self.holdout_key, self.holdout_id)
