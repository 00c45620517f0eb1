"""A plan as people read it while there is no date yet: the tooltip of its group.

Apart from the preview, which no parse of a DAG file has to load.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from .durations import in_words
from .stages import NOTHING, Stage
from .windows import DAYS

if TYPE_CHECKING:
    from .plan import RolloutPlan


def offsets(plan: RolloutPlan) -> str:
    """Return a plan without dates; see :meth:`RolloutPlan.offsets`."""
    lines, since, before = [], NOTHING, 0
    for stage in plan.stages:
        lines.append(f"+{_offset(since)} {before} % -> {stage.percentage} %, {_watch(stage)}")
        since, before = since + stage.watched, stage.percentage
    return "\n".join([*lines, *limits(plan)])


def limits(plan: RolloutPlan) -> list[str]:
    """Return when the plan may go up at all; nothing where it may at any time."""
    windows = [f"Raised only {each}" if not place else f"or {each}" for place, each in enumerate(plan.windows)]
    freezes = [f"Not raised from {date(start)} to {date(end)} UTC." for start, end in plan.freezes]
    return [*([", ".join(windows) + "."] if windows else []), *freezes]


def date(moment: datetime) -> str:
    """Write a moment to the minute, rounded up to it, because nothing happens before; English on every machine."""
    whole = moment.replace(second=0, microsecond=0)
    shown = whole if whole == moment else whole + timedelta(minutes=1)
    return f"{DAYS[shown.weekday()].capitalize()} {shown:%Y-%m-%d %H:%M}"


def _watch(stage: Stage) -> str:
    watched = f"watched {in_words(stage.watched)}" if stage.watched else "not watched"
    return f"{watched}, then a person is asked" if stage.approval else watched


def _offset(since: timedelta) -> str:
    return in_words(since) if since else "0h"
