"""Waiting until an experiment's end date has passed.

The pure part says what an experiment, as it was just read, means for the wait; the sensor's first look and the
trigger's later ones share it. The end is known beforehand, so the trigger looks once when it has come, and meanwhile
only as often as people may move it.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from airflow_amplitude_experiment.api import RolloutRefused

from ._verdict import Verdict
from ._wait import AmplitudeWaitTrigger

if TYPE_CHECKING:
    from airflow_amplitude_experiment.api.models import Experiment

FIELDS = ("key", "id", "ended_at", "looked_at")
NEEDS = frozenset({"end_date"})


def end_of(found: Experiment, on_missing: str) -> datetime | None:
    """Return when an experiment ends, ``None`` where it has no end date and that is to be waited for.

    :raises RolloutRefused: it will never end: archived, no end date, or one that is no date.
    """
    what = f"Experiment {found.key} ({found.id})"
    if found.deleted:
        raise RolloutRefused(f"{what} is archived, so its end is not waited for. Restore it, or drop this task.")
    try:
        ends_at = found.ends_at
    except ValueError as error:
        raise RolloutRefused(f"{what} has the end date {found.end_date!r}, which is no date.") from error
    if ends_at is None and on_missing == "fail":
        raise RolloutRefused(
            f"{what} has no end date. Set one in Amplitude, or pass on_missing='wait' to wait until there is one."
        )
    return ends_at


def verdict_on(found: Experiment, on_missing: str, moment: datetime) -> Verdict:
    """Say what an experiment means for the wait for its end: over, or over at a moment that is known.

    :raises RolloutRefused: it will never end.
    """
    ends_at = end_of(found, on_missing)
    if ends_at is None or ends_at > moment:
        return Verdict(matters_at=ends_at)
    record = {
        "key": found.key,
        "id": found.id,
        "ended_at": ends_at.isoformat(),
        "looked_at": moment.isoformat(timespec="seconds"),
    }
    return Verdict(record)


class AmplitudeEndDateTrigger(AmplitudeWaitTrigger):
    """Sleeps until an experiment's end date, looks again meanwhile because people move dates, and once at the end.

    A passing error delays the next look and never ends the wait; one that can't heal is sent as an event.

    :param on_missing: ``fail`` or ``wait``, where the end date is missing.
    """

    def __init__(self, *, on_missing: str, kind: str = "experiment", **kwargs: Any) -> None:
        super().__init__(kind=kind, **kwargs)
        self.on_missing = on_missing

    @property
    def needs(self) -> frozenset[str]:
        """The end date."""
        return NEEDS

    def condition(self) -> dict[str, Any]:
        """Return what to do where there is no end date."""
        return {"on_missing": self.on_missing}

    def judge(self, found: Any, moment: datetime) -> Verdict:
        """Say whether the end has passed, and that it was moved."""
        verdict = verdict_on(found, self.on_missing, moment)
        before, self.matters_at = self.matters_at, verdict.matters_at.isoformat() if verdict.matters_at else None
        if verdict.record or self.matters_at == before:
            return verdict
        how = f"moved from {before} to {self.matters_at}" if before else f"is {self.matters_at}"
        return verdict._replace(said=f"Experiment {found.key} ({found.id}): the end date {how}")
