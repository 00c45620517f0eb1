"""Waiting until a flag or experiment is as it is wanted: its state, its switch, its percentage, any field."""

from __future__ import annotations

from datetime import datetime
from functools import cached_property
from typing import Any

from ._until import Until
from ._verdict import Verdict
from ._wait import AmplitudeWaitTrigger

FIELDS = ("kind", "key", "id", "found", "looked_at")


class AmplitudeStateTrigger(AmplitudeWaitTrigger):
    """Sleeps until a flag or experiment is as it is wanted.

    A passing error delays the next look and never ends the wait; one that can't heal is sent as an event.

    :param until: values by field; see the sensor.
    """

    def __init__(self, *, until: dict[str, Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.until = until

    @cached_property
    def _until(self) -> Until:
        """Check it when it is first read. An error in ``__init__`` would end the whole triggerer."""
        return Until(self.until, self.kind)

    @property
    def needs(self) -> frozenset[str]:
        """The fields that are compared."""
        return self._until.needs

    @property
    def archived_too(self) -> bool:
        """Whether being archived is what is waited for."""
        return self._until.archived_too

    def condition(self) -> dict[str, Any]:
        """Return the wanted values."""
        return {"until": self.until}

    def judge(self, found: Any, moment: datetime) -> Verdict:
        """Say whether the object is as wanted."""
        return self._until.judge(found, moment)
