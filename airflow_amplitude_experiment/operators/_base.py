"""What every operator shares: the object it names, its hook, and what becomes of errors: an end for good, or a wait."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from airflow.providers.common.compat.sdk import AirflowFailException, BaseOperator, BaseOperatorLink

from airflow_amplitude_experiment.api.errors import (
    AmplitudeAuthError,
    AmplitudeInvalidRequest,
    AmplitudeNotConfirmed,
    AmplitudeNotEditable,
    AmplitudeNotFound,
    AmplitudePermissionError,
    AmplitudeRateLimited,
    RolloutRefused,
)
from airflow_amplitude_experiment.ui.links import URL_KEY, OpenInAmplitudeLink

from ._assets import with_alias

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_amplitude_experiment.hooks.experiment import AmplitudeExperimentHook
    from airflow_amplitude_experiment.hooks.guard import GuardedClient, Reading

    from ._edit import Edit

DEFAULT_CONNECTION = "amplitude_experiment_default"
NAMES = ("experiment_key", "experiment_id", "flag_key", "flag_id")


class AmplitudeOperator(BaseOperator):
    """Base of the operators that talk to Amplitude.

    :param reason: why, in words; it stands in the log and in the record.
    :param amplitude_conn_id: id of the Airflow connection (type ``amplitude_experiment``).
    """

    template_fields: Sequence[str] = ("reason", "amplitude_conn_id")
    ui_color = "#d5e4ff"

    writes_percentage = False
    """Whether this operator moves an object's percentage, so that a later ramp can explain its versions."""

    writes_objects = False
    """Whether this operator writes flags or experiments, so that it announces them as Airflow assets."""

    defers = True
    """Whether this operator waits without a slot where a 429 lasts. The way down never does (law 10), nor what would go
    out hours later without a look at what people did meanwhile."""

    _resumed_with: tuple[str, Mapping[str, Any]] = "execute_complete", {}
    """The method that goes on after a wait, and its arguments."""

    def __init__(
        self, *, reason: str | None = None, amplitude_conn_id: str = DEFAULT_CONNECTION, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self._connect(reason, amplitude_conn_id)

    def _connect(self, reason: str | None, amplitude_conn_id: str) -> None:
        self.reason = reason
        self.amplitude_conn_id = amplitude_conn_id
        if self.writes_objects:
            self.outlets = with_alias(self.outlets)

    def resolve_template_files(self) -> None:
        """Leave the files of queries to rendering, which reads them: looking here builds an environment per task."""
        self.prepare_template()

    def execute(self, context: Context) -> Any:
        """Do the job; what can't heal by trying again ends the task at once, and a 429 that lasts defers it."""
        with ending_what_cannot_heal():
            try:
                return self.act(context)
            except AmplitudeRateLimited as error:
                if not self.defers or type(error) is not AmplitudeRateLimited:  # other APIs have limits of their own
                    raise
                from ._quota import wait_for_quota

                method_name, kwargs = self._resumed_with
                wait_for_quota(self, context, error, method_name=method_name, kwargs=kwargs)

    def execute_complete(self, context: Context, event: Any = None) -> Any:
        """Go on after a wait. Nothing travels with the event: what counts is read again."""
        return self.execute(context)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Go on after a wait, and keep what with, in case that another one is needed first."""
        self._resumed_with = next_method, next_kwargs or {}
        try:
            return super().resume_execution(next_method, next_kwargs, context)
        finally:
            del self._resumed_with

    @abstractmethod
    def act(self, context: Context) -> Any:
        """Do the job."""

    @property
    def hook(self) -> AmplitudeExperimentHook:
        """The hook of this task's connection."""
        from airflow_amplitude_experiment.hooks.experiment import AmplitudeExperimentHook

        return AmplitudeExperimentHook(self.amplitude_conn_id)


class TargetMixin:
    """For operators and sensors that name one object.

    Exactly one of ``experiment_key``, ``experiment_id``, ``flag_key``, ``flag_id``; ``project_id`` where the
    connection names none.
    """

    target_fields: Sequence[str] = (*NAMES, "project_id")
    operator_extra_links: Collection[BaseOperatorLink] = (OpenInAmplitudeLink(),)

    experiment_key: str | None
    experiment_id: str | int | None
    flag_key: str | None
    flag_id: str | int | None
    project_id: str | int | None

    def name_target(self, **names: Any) -> None:
        """Keep the names as they were given, rendered later.

        :raises ValueError: not exactly one name.
        """
        named = [name for name in NAMES if names.get(name) is not None]
        if len(named) != 1:
            raise ValueError(f"Give exactly one of {', '.join(NAMES)}; given: {', '.join(named) or 'none'}")
        if isinstance(name := names[named[0]], str) and not name.strip():
            raise ValueError(f"{named[0]} is empty; it must name the object")
        vars(self).update({name: names.get(name) for name in (*NAMES, "project_id")})

    @property
    def kind(self) -> Literal["flag", "experiment"]:
        """What kind of object is named."""
        return "flag" if self.flag_key is not None or self.flag_id is not None else "experiment"

    @property
    def target(self) -> str:
        """The object in words, for logs and errors: ``flag new-checkout``."""
        return f"{self.kind} {self._name()}"

    def reading(self, client: Any) -> Reading[Any]:
        """Read the object: by key as the list shows it, by id in details; completed where the list is sparse.

        :raises RolloutRefused: it is archived, or its project isn't the one that is named.
        :raises AmplitudeNotFound: there is no such object.
        """
        from airflow_amplitude_experiment.hooks.lookup import by_id, by_key, calls_of

        project = project_named(self.project_id, client.rules.project_id)
        if self.flag_key is None and self.experiment_key is None:
            return (yield from by_id(self.kind, self._name(), project))
        found = yield from by_key(self.kind, self._name(), project)
        if found.enabled is None or found.rollout_percentage is None or found.target_segments is None:
            details = yield calls_of(self.kind).get(found.id)
            return type(found).model_validate({**found.as_json(), **details.as_json()})
        return found

    def leave_link(self, context: Context, client: GuardedClient, found: Any) -> None:
        """Leave the object's address for the link in the UI, before anything can fail or wait."""
        from airflow_amplitude_experiment.ui.links import object_url

        context["ti"].xcom_push(key=URL_KEY, value=object_url(client.base_url, client.rules.organization, found))

    def _name(self) -> str:
        value = next(getattr(self, name) for name in NAMES if getattr(self, name) is not None)
        if given(value) is None or not str(value).strip():
            raise ValueError(f"The {self.kind} is named by an empty text; was it left out of the form or the conf?")
        return str(value).strip()


class AmplitudeTargetOperator(TargetMixin, AmplitudeOperator):
    """Base of the operators that are told which flag or experiment it is.

    :param experiment_key, experiment_id, flag_key, flag_id: the object; exactly one.
    :param project_id: its project, where the connection names none.
    """

    template_fields: Sequence[str] = (*AmplitudeOperator.template_fields, *TargetMixin.target_fields)

    def __init__(
        self,
        *,
        experiment_key: str | None = None,
        experiment_id: str | int | None = None,
        flag_key: str | None = None,
        flag_id: str | int | None = None,
        project_id: str | int | None = None,
        reason: str | None = None,
        amplitude_conn_id: str = DEFAULT_CONNECTION,
        **kwargs: Any,
    ) -> None:
        # Not by way of the class between: Airflow merges a DAG's default_args in every __init__, for every task.
        BaseOperator.__init__(self, **kwargs)
        self._connect(reason, amplitude_conn_id)
        self.name_target(
            experiment_key=experiment_key,
            experiment_id=experiment_id,
            flag_key=flag_key,
            flag_id=flag_id,
            project_id=project_id,
        )


class AmplitudeEditOperator(AmplitudeTargetOperator):
    """Base of the operators that change one flag or experiment, each in its own way.

    What is asked for is settled before the first request; then the object is read, and changed.
    """

    writes_objects = True

    def act(self, context: Context) -> dict[str, Any]:
        """Settle what is asked for, read the object, change it."""
        from ._edit import Edit
        from ._past import skip_in_the_past

        skip_in_the_past(context, self.log)
        order = self.order(context)
        with self.hook.get_conn() as client:
            found = client.read(self.reading(client))
            self.leave_link(context, client, found)
            return self.edit(Edit(self, context, client, kind=self.kind, found=found, name=self.target), order)

    @abstractmethod
    def order(self, context: Context) -> Any:
        """Return what is asked for, checked once templates are rendered.

        :raises ValueError: what was given, and what is allowed; nothing has been sent.
        """

    @abstractmethod
    def edit(self, edit: Edit, order: Any) -> dict[str, Any]:
        """Decide, write, read back; return the record."""


def project_named(named: str | int | None, of_connection: str | None) -> str | None:
    """Return the one project that is named.

    :raises ValueError: the task and the connection name different ones.
    """
    wanted = str(named).strip() if given(named) is not None else None
    if wanted and of_connection and wanted != of_connection:
        raise ValueError(f"project_id={wanted} is given, but the connection names project {of_connection}")
    return wanted or of_connection


def is_known(value: Any) -> bool:
    """Whether a value is final while the DAG is parsed: no template in it, and no result of another task."""
    if isinstance(value, Mapping):
        return all(is_known(each) for each in value.values())
    if isinstance(value, list | tuple):
        return all(is_known(each) for each in value)
    if isinstance(value, str):
        return "{{" not in value and "{%" not in value
    return value is None or isinstance(value, int | float)


def given(value: Any) -> Any:
    """Return a rendered argument; ``None`` where it was left out, which a form or a conf renders as a text."""
    return None if isinstance(value, str) and value.strip() in ("", "None") else value


CANNOT_HEAL = (
    AmplitudeAuthError,
    AmplitudeInvalidRequest,
    AmplitudeNotConfirmed,
    AmplitudeNotEditable,
    AmplitudeNotFound,
    AmplitudePermissionError,
    RolloutRefused,
    ValueError,
    TypeError,
)
"""Errors that another try meets again."""


@contextmanager
def ending_what_cannot_heal() -> Iterator[None]:
    """Let a task fail without another try where another try can't help."""
    try:
        yield
    except CANNOT_HEAL as error:
        raise AirflowFailException(f"{type(error).__name__}: {error}") from error
