"""Keep who is included in a variant in step with a list, a query or a file."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from airflow_amplitude_experiment.api._checks import INCLUSIONS_LIMIT, Check, boolean, name

from ._base import AmplitudeEditOperator, given, is_known

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from ._edit import Edit
    from ._sources import Source
    from ._sync import Order

SWITCHES = {
    "allow_empty": False,
    "check_other_variants": True,
    "into_running_experiment": False,
    "allow_readable_ids": False,
}
"""Arguments that are true or false, and what they are where a form or a conf leaves them out."""

NEEDS = {"conn_id": "sql", "parameters": "sql", "path_conn_id": "path"}
"""Arguments that say something only beside another one."""


class Unseen:
    """A rendered template field that Airflow must not show: it keeps what others were rendered to, and the UI shows it.

    Airflow stores a task's rendered fields right before it starts, and asks an object that it can't write as JSON for
    its ``serialize()``.
    """

    def __init__(self, value: Any) -> None:
        self.value = value

    def __repr__(self) -> str:
        return "<ids, not shown>"

    def serialize(self) -> str:
        """Return what stands in the UI."""
        return repr(self)


class _SyncOperator(AmplitudeEditOperator):
    """What both operators share; their docstrings tell the rest."""

    side: ClassVar[Literal["users", "cohorts"]]
    unseen_fields: ClassVar[tuple[str, ...]] = ()
    """Template fields that hold ids of users."""

    template_fields: Sequence[str] = (
        *AmplitudeEditOperator.template_fields,
        "variant",
        "mode",
        "sql",
        "conn_id",
        "parameters",
        "path",
        "path_conn_id",
        "column",
        "keep",
        "max_change",
        "allow_empty",
        "check_other_variants",
        "into_running_experiment",
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {"sql": "sql", "parameters": "json"}

    def __init__(
        self,
        *,
        variant: str,
        mode: Literal["replace", "add", "remove"] | str,
        sql: str | None = None,
        conn_id: str | None = None,
        parameters: Mapping[str, Any] | Sequence[Any] | None = None,
        path: str | None = None,
        path_conn_id: str | None = None,
        column: str | None = None,
        keep: Collection[str | int] | str | None = (),
        max_change: int | str | None = None,
        allow_empty: bool | str = False,
        check_other_variants: bool | str = True,
        into_running_experiment: bool | str = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.variant = variant
        self.mode = mode
        self.sql = sql
        self.conn_id = conn_id
        self.parameters = parameters
        self.path = path
        self.path_conn_id = path_conn_id
        self.column = column
        self.keep = () if keep is None else _ordered(keep)
        self.max_change = max_change
        self.allow_empty = allow_empty
        self.check_other_variants = check_other_variants
        self.into_running_experiment = into_running_experiment

    def check_what_is_known(self) -> None:
        """Check what no template fills in later.

        :raises ValueError: not exactly one source, or a value that can't be meant.
        """
        from airflow_amplitude_experiment.rollout.inclusions import MAX_CHANGE, MODE

        sources = (self.side, "sql", "path")
        if len(named := [each for each in sources if getattr(self, each) is not None]) != 1:
            raise ValueError(f"Give exactly one of {', '.join(sources)}; given: {', '.join(named) or 'none'}")
        for argument, needed in NEEDS.items():
            if getattr(self, argument) is not None and getattr(self, needed) is None:
                raise ValueError(f"{argument} is given, but says something only beside {needed}=…")
        if self.sql is not None and self.conn_id is None:
            raise ValueError("sql needs conn_id=…, the Airflow connection to ask")
        texts = dict.fromkeys(("variant", "sql", "conn_id", "path"), name)
        checks: dict[str, Check] = {**texts, "mode": MODE, "max_change": MAX_CHANGE, **dict.fromkeys(SWITCHES, boolean)}
        for argument, check in checks.items():
            value = getattr(self, argument, None)
            if is_known(value) and not (value is None and argument != "variant"):
                check(argument, value)
        if self.keep != () and is_known(self.keep):
            self._kept()
        if self._values is not None and all(map(is_known, (self._values, self.mode, self.column))):
            self._source(self.mode)

    def render_template(
        self, content: Any, context: Context, jinja_env: Any = None, seen_oids: set[int] | None = None
    ) -> Any:
        """Render as every operator does, and hide the ids of users from what Airflow stores of a task."""
        rendered = super().render_template(content, context, jinja_env, seen_oids)
        empty = content is None or (isinstance(content, str | list | tuple) and not content)
        hide = not empty and any(content is getattr(self, field) for field in self.unseen_fields)
        return Unseen(rendered) if hide and not isinstance(rendered, Unseen) else rendered

    def order(self, context: Context) -> Order:
        """Check what is asked for, and read the source: nothing has been sent to Amplitude yet."""
        from airflow_amplitude_experiment.rollout.inclusions import MAX_CHANGE, MODE

        from ._sync import Order

        switches = {argument: self._switch(argument) for argument in SWITCHES}
        mode, variant = MODE("mode", self.mode), name("variant", given(self.variant)).strip()
        max_change = None if given(self.max_change) is None else MAX_CHANGE("max_change", self.max_change)
        keep = self._kept()
        source = self._source(mode)
        if not source.ids and mode == "replace" and not switches["allow_empty"]:
            raise ValueError(
                f"{self.target}, variant {variant!r}: {source.where} holds no ids ({source.read:,} rows), and "
                "mode='replace' would take everybody out. Look at the source first; if it is right, pass "
                "allow_empty=True. Nothing was sent."
            )
        return Order(
            side=self.side,
            variant=variant,
            source=source,
            mode=mode,
            keep=keep,
            max_change=max_change,
            check_other_variants=switches["check_other_variants"],
            into_running_experiment=switches["into_running_experiment"],
            allow_readable_ids=switches["allow_readable_ids"],
        )

    def edit(self, edit: Edit, order: Order) -> dict[str, Any]:
        """Do the difference."""
        from ._sync import Sync

        return Sync(edit, order).run()

    @property
    def _what(self) -> Any:
        return self.side.removesuffix("s")

    @property
    def _values(self) -> Any:
        return _seen(getattr(self, self.side))

    def _switch(self, argument: str) -> bool:
        value = given(getattr(self, argument, None))
        return SWITCHES[argument] if value is None else bool(boolean(argument, value))

    def _source(self, mode: str) -> Source:
        """Read the one source; it stops at the first id beyond what can be of use."""
        from airflow_amplitude_experiment.rollout.inclusions import MOST_TO_REMOVE

        from ._sources import from_path, from_sql, from_values

        options: dict[str, Any] = {
            "column": given(self.column),
            "cap": MOST_TO_REMOVE if mode == "remove" else INCLUSIONS_LIMIT,
            "what": self._what,
        }
        if self.sql is not None:
            conn_id = name("conn_id", given(self.conn_id))
            sql = name("sql", given(self.sql))
            return from_sql(sql, conn_id=conn_id, parameters=given(self.parameters), **options)
        if self.path is not None:
            return from_path(name("path", given(self.path)), conn_id=given(self.path_conn_id), **options)
        if given(self._values) is None:
            raise ValueError(
                f"{self.side} rendered to nothing: the task or the form that it comes from returned no list. To say "
                "that nobody is meant, return an empty list. Nothing was sent."
            )
        return from_values(self._values, **options)

    def _kept(self) -> frozenset[str]:
        from ._sources import from_values

        kept = _seen(self.keep)
        if given(kept) is None:
            raise ValueError(
                "keep rendered to nothing: the task or the form that it comes from returned no list, and whoever it "
                f"should protect could be removed. To say that it is no {self._what}, return an empty list. Nothing "
                "was sent."
            )
        try:
            read = from_values(kept, cap=INCLUSIONS_LIMIT, what=self._what)
        except ValueError as error:
            raise ValueError(f"keep: {error}") from None
        return frozenset(read.ids)


def _ordered(value: Any) -> Any:
    """Return a set as a list: its order differs at every parse, and Airflow 3.1 makes a new DAG version of that."""
    return sorted(value, key=repr) if isinstance(value, set | frozenset) else value


def _seen(value: Any) -> Any:
    return value.value if isinstance(value, Unseen) else value


class AmplitudeSyncVariantUsersOperator(_SyncOperator):
    """Keep the users who are included in a variant (forced into it) in step with a list, a query or a file.

    Reads the source, then who is included, and sends the difference by id, never by position, in requests of at
    most 100: removals first, so that the cap of 2,000 is never passed on the way. Then it reads back. What a crash or
    a lost answer left half-sent, the next try completes. A run of the past is skipped.

    Nothing to do costs one read for the object and one for each variant (only the one of ``variant`` with
    ``check_other_variants=False`` or ``mode="remove"``); otherwise there is one request more for each 100 added and
    each 100 removed, and one to read back. One read more each for a request whose answer is lost or refused, and for
    the list of deployments, which is read only where an id to add looks like an e-mail address and the object is
    evaluated locally.

    Refused, with counts and never with an id, and before anything is written:

    * an empty source with ``mode="replace"``, unless ``allow_empty``: a broken query must not empty a variant;
    * more than 2,000 users in the end; the way out is a cohort (:class:`AmplitudeSyncVariantCohortsOperator`);
    * a change larger than ``max_change``;
    * with ``add`` and ``replace``, users of the source who are included in another variant of the object;
    * any change of an enabled experiment with two or more variants, unless ``into_running_experiment``: whoever is
      included is not randomised, and spoils the sample ratio. (A flag compares nothing and is not refused.)
    * additions while the object is frozen, even where removals would go with them. Removals alone are not stopped.

    Ids stand in no log above DEBUG, in no error, in no XCom of this task, and not among the rendered fields that
    Airflow stores and shows (``users`` and ``keep`` are shown as ``<ids, not shown>``). What it can't hide: the XCom
    of a task that returns the ids, and ids written into the DAG file; where that matters use ``sql`` or ``path``.

    :param variant: key of the variant.
    :param users: the ids: a list (of texts, whole numbers, or rows with one ``column``), or the output of a task;
        from a template as JSON (``{{ … | tojson }}``). Exactly one of ``users``, ``sql`` and ``path``.
    :param sql: a query; any connection with a ``common.sql`` hook. Read row by row, up to the first id too many.
    :param conn_id: Airflow connection of the query.
    :param parameters: what the query's driver binds.
    :param path: a file (``.csv``, ``.jsonl``, ``.ndjson``, ``.parquet``), here, in S3 or in GCS.
    :param path_conn_id: Airflow connection of the file's store.
    :param column: name of the column that holds the ids; needed for CSV and where rows have several.
    :param mode: ``replace`` (the source is the whole list, but for ``keep``), ``add``, or ``remove`` (a source of at
        most 100,000 ids). There is no default.
    :param keep: ids that are never removed, such as testers; they are not added either. A list, or what renders to
        one: where it renders to nothing, the task fails rather than remove them.
    :param max_change: the most that may be added plus removed: a count (``200``), or a share of those who are there
        before (``"10%"``, at most ``"100%"``). Of nobody there is no share, so the first fill of an empty variant
        needs a count, or no limit. A re-run is never stopped by a limit that let its first try begin.
    :param allow_empty: let an empty source empty the variant.
    :param check_other_variants: read the other variants too, and refuse whoever is in one.
    :param into_running_experiment: change a running experiment all the same; the record says so.
    :param allow_readable_ids: include ids that look like e-mail addresses where a client deployment serves the
        object for local evaluation, so that every client can read them. Whether one does, the list of deployments
        tells by their keys: any that is not a server's counts as a client's.
    :param experiment_key, experiment_id, flag_key, flag_id: the object; exactly one.
    :param project_id: its project, where the connection names none.
    :param reason: why, for the log and the record.
    :param amplitude_conn_id: id of the Airflow connection.
    :raises AirflowFailException: refused, or an error that another try can't heal. Amplitude's own text is left out
        of it and stands in the log at DEBUG, because it may name users.
    :return: a record: ``kind``, ``key``, ``id``, ``project_id``, ``variant``, ``mode``, the counts ``before``,
        ``added``, ``removed``, ``after``, ``kept`` (there only because of ``keep``), ``read`` (rows) and ``skipped``
        (``{"blank", "duplicate"}``), ``source`` in words, ``into_running_experiment``, ``written``, ``at`` (UTC),
        ``reason``, and where it came from: ``environment``, ``dag_id``, ``run_id``, ``task_id``, ``map_index``,
        ``try_number``. With a read-only connection the counts are those that would have been written.

    Source: Management API, "Experiments" and "Flags", inclusions (``GET`` and ``POST …/variants/{key}/users``,
    ``DELETE …/bulk-delete-users``).
    """

    side = "users"
    unseen_fields = ("users", "keep")
    template_fields: Sequence[str] = (*_SyncOperator.template_fields, "users", "allow_readable_ids")

    def __init__(self, *, users: Any = None, allow_readable_ids: bool | str = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.users = _ordered(users)
        self.allow_readable_ids = allow_readable_ids
        self.check_what_is_known()


class AmplitudeSyncVariantCohortsOperator(_SyncOperator):
    """Keep the cohorts that are included in a variant in step with a list, a query or a file.

    Works as :class:`AmplitudeSyncVariantUsersOperator` and takes all its arguments but ``users`` and
    ``allow_readable_ids``. Amplitude keeps the members of a cohort up to date itself, with a lag of an hour or two,
    and a cohort may hold millions: for more than 2,000 users this is the way.

    What differs: there is no documented cap on cohorts, so only the source is bounded (2,000). A cohort counts as
    everybody for the connection's ``max_percentage`` and ``max_step``, because nobody tells how many users are in it.
    That two cohorts of two variants share members can't be seen; the same cohort in two variants is refused.

    :param cohorts: ids of cohorts, as the address of a cohort in Amplitude ends; as ``users`` there.

    Source: Management API, inclusions (``GET`` and ``POST …/variants/{key}/cohorts``,
    ``DELETE …/bulk-delete-cohorts``).
    """

    side = "cohorts"
    template_fields: Sequence[str] = (*_SyncOperator.template_fields, "cohorts")

    def __init__(self, *, cohorts: Any = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.cohorts = _ordered(cohorts)
        self.check_what_is_known()
