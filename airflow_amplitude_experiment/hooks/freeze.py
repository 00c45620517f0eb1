"""The freeze: one Airflow Variable that stops every raise of the objects it names, everywhere at once.

It is read at every write, so that it works from the moment somebody saves it. Whatever is wrong with it stops raises
too: a freeze that was meant and isn't understood must not let anything through. The way down never asks.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from airflow_amplitude_experiment.api.errors import RolloutRefused

if TYPE_CHECKING:
    from airflow.sdk.execution_time.comms import ErrorResponse

VARIABLE = "amplitude_experiment_freeze"
WANTED = 'a JSON list of globs of keys, such as ["checkout-*"], or ["*"] for all'


def frozen(key: str | None) -> str | None:
    """Return the glob of the freeze that names an object, or what is wrong with the freeze; ``None`` where none does.

    :raises AirflowException: the Variable can't be read; another try may.
    """
    freeze = Freeze.now()
    freeze.raise_unreadable()
    return freeze.names(key)


@dataclass(frozen=True, slots=True)
class Freeze:
    """The Variable as it stands.

    :param globs: what it names.
    :param wrong: what is wrong with its value; it then names every object.
    :param unreadable: why it could not be read.
    """

    globs: tuple[str, ...] = ()
    wrong: str | None = None
    unreadable: BaseException | None = None

    @classmethod
    def now(cls) -> Freeze:
        """Read the Variable."""
        try:
            value = _value()
        except Exception as error:  # noqa: BLE001  it is raised where something would go up
            return cls(unreadable=error)
        return cls() if value is None else cls.parsed(value)

    @classmethod
    def parsed(cls, value: str) -> Freeze:
        """Read a value; one that can't be meant names everything."""
        try:
            globs = json.loads(value)
        except ValueError:
            globs = None
        if isinstance(globs, list) and all(isinstance(each, str) and each.strip() for each in globs):
            return cls(tuple(each.strip() for each in globs))
        shown = value if len(value) <= 60 else f"{value[:60]}…"
        return cls(wrong=f"its value {shown!r} is not {WANTED}; until it is corrected nothing goes up")

    @property
    def may_name_something(self) -> bool:
        """Whether there is anything to look at."""
        return bool(self.globs or self.wrong or self.unreadable)

    def may_name(self, key: str | None) -> bool:
        """Whether an object may be frozen: it is named, or nobody knows."""
        return self.unreadable is not None or self.names(key) is not None

    def names(self, key: str | None) -> str | None:
        """Return what names an object; one without a key could be any."""
        if self.wrong:
            return self.wrong
        return next((glob for glob in self.globs if key is None or fnmatchcase(key, glob)), None)

    def check_rises(self, key: str | None, rises: Iterable[object], what: str) -> None:
        """Refuse what goes up on an object that is named; where none is, ``rises`` isn't looked at.

        :raises RolloutRefused: it is frozen.
        :raises AirflowException: whether it is can't be read.
        """
        if not self.may_name(key):
            return
        for rise in rises:
            self.raise_unreadable()
            raise RolloutRefused(
                f"{what}: refused, because the Airflow Variable {VARIABLE} freezes {key or 'it'} ({self.names(key)}), "
                f"and {rise}. Nothing was sent. Going down is allowed; take it out of the Variable to go up again."
            )

    def raise_unreadable(self) -> None:
        """Let a task try again later where the Variable could not be read."""
        from airflow.providers.common.compat.sdk import AirflowException

        if self.unreadable is not None:
            raise AirflowException(
                f"The Airflow Variable {VARIABLE} can't be read, so nothing goes up now: {self.unreadable}"
            ) from self.unreadable


def _value() -> str | None:
    """Return the Variable's text; ``None`` only where there is none for certain."""
    from airflow.providers.common.compat.sdk import Variable

    value: Any = Variable.get(VARIABLE, default=None)
    if value is None and (failure := _failure_behind_missing()) is not None:
        raise RuntimeError(f"{failure.error.value}: {failure.detail}")
    return None if value is None else str(value)


def _failure_behind_missing() -> ErrorResponse | None:
    """Ask once more, past Airflow's search of the secrets backends: that one takes a failure for "not found"."""
    from airflow.sdk.exceptions import ErrorType
    from airflow.sdk.execution_time import task_runner
    from airflow.sdk.execution_time.comms import ErrorResponse, GetVariable

    supervisor = getattr(task_runner, "SUPERVISOR_COMMS", None)
    if supervisor is None:  # not in a task: there is nobody to ask
        return None
    answer = supervisor.send(GetVariable(key=VARIABLE))
    failed = isinstance(answer, ErrorResponse) and answer.error is not ErrorType.VARIABLE_NOT_FOUND
    return answer if failed else None
