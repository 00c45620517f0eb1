"""Whether somebody stopped a rollout (law 9: down stays down).

Read from the versions that Amplitude writes at each change. Versions of flags hold the percentage; those of
experiments don't, so there every change that leaves nothing visible counts as one of the percentage.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

INVISIBLE = frozenset({"rolloutPercentage"})


def stopped_since(versions: Sequence[Any], moment: datetime, found: Any, *, explained: int) -> str | None:
    """Say how somebody lowered or disabled an object since a moment, or ``None``.

    :param versions: every version of the object, in any order.
    :param moment: start of the time to look at; the version in force then counts too.
    :param found: the object as just read.
    :param explained: how many writes of the percentage this run's own tasks may have made since.
    """
    ordered = sorted(versions, key=lambda version: version.version)
    timeline = _since(ordered, moment)
    percentage = found.rollout_percentage or 0
    for version in timeline:
        stood = version.flag_config.rollout_percentage
        if stood is not None and stood > percentage:
            return f"stood at {stood} % in version {version.version}{_by(version)} and stands at {percentage} % now"
    for earlier, later in pairwise(timeline):
        if earlier.flag_config.enabled and later.flag_config.enabled is False:
            return f"was disabled in version {later.version}{_by(later)}"
    if all(version.flag_config.rollout_percentage is None for version in timeline):
        unseen = [later for earlier, later in pairwise(timeline) if _alike(earlier, later)]
        if len(unseen) > explained:
            return (
                f"was changed {len(unseen)} times since {moment:%Y-%m-%dT%H:%MZ} where this run explains "
                f"{explained}, last in version {unseen[-1].version}{_by(unseen[-1])}; its versions don't show the "
                "percentage, so somebody may have lowered it"
            )
    return None


def _since(ordered: list[Any], moment: datetime) -> list[Any]:
    """Return the version in force at a moment and all later ones."""
    later = [version for version in ordered if written_at(version) is None or written_at(version) > moment]  # type: ignore[operator]
    earlier = [version for version in ordered if version not in later]
    return [*earlier[-1:], *later]


def written_at(version: Any) -> datetime | None:
    """Return when a version was written, in UTC, where the API says so."""
    if not version.created_at:
        return None
    moment = datetime.fromisoformat(version.created_at)
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


def _alike(earlier: Any, later: Any) -> bool:
    """Whether two versions show the same, so that what changed is not shown."""
    return _shown(earlier) == _shown(later)


def _shown(version: Any) -> dict[str, Any]:
    return {field: value for field, value in version.flag_config.as_json().items() if field not in INVISIBLE}


def _by(version: Any) -> str:
    who = f" by {version.created_by}" if version.created_by else ""
    when = f" at {version.created_at}" if version.created_at else ""
    return f" ({who}{when} )".replace("( ", "(").replace(" )", ")") if who or when else ""
