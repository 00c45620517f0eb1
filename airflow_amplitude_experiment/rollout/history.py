"""Whether somebody stopped a rollout (law 9: down stays down).

Read from the versions that Amplitude writes at each change. Versions of flags hold the percentage; those of
experiments don't, so there every change of one that is on counts as one of the percentage if it leaves nothing visible.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

INVISIBLE = frozenset({"rolloutPercentage"})
Record = Mapping[str, Any]


def stopped_since(
    versions: Sequence[Any],
    moment: datetime,
    found: Any,
    *,
    segment: str | None = None,
    own: Sequence[Record] = (),
    ever_switched_off: bool = False,
    ever_lowered: bool = False,
    unseen: bool = True,
) -> str | None:
    """Say how somebody lowered or disabled an object since a moment, or ``None``.

    :param versions: every version of the object, in any order.
    :param moment: start of the time to look at; the version in force then counts too.
    :param found: the object as just read.
    :param segment: the target segment whose percentage matters, instead of that of all other users.
    :param own: the records of what this run's own tasks wrote to this object since, the oldest first.
    :param ever_switched_off: also look for a switch-off before that moment.
    :param ever_lowered: also look for a lowering before that moment; where versions don't show the percentage, for
        what was changed unseen while it was on.
    :param unseen: where versions don't show the percentage, count the changes that show nothing.
    """
    ordered = sorted(versions, key=lambda version: version.version)
    timeline = _after_own_lowering(_since(ordered, moment), own, segment)
    stands = percentage_of(found, segment) or 0
    whole = _after_own_lowering(ordered, own, segment) if ever_lowered else timeline
    highest = max(whole, key=lambda version: percentage_of(version.flag_config, segment) or 0, default=None)
    if highest and (stood := percentage_of(highest.flag_config, segment) or 0) > stands:
        return f"stood at {stood} % in version {highest.version}{_by(highest)} and stands at {stands} % now"
    for earlier, later in pairwise(ordered if ever_switched_off else timeline):
        if earlier.flag_config.enabled and later.flag_config.enabled is False:
            return f"was disabled in version {later.version}{_by(later)}"
    if not unseen:
        return None
    since = {version.version for version in timeline}
    return _changed_unseen([pair for pair in pairwise(whole) if _was_on(pair[0], since)], segment, own)


def _was_on(version: Any, since: set[int]) -> bool:
    """Whether people may have got a version, so that its percentage could be taken from them."""
    enabled = version.flag_config.enabled
    return bool(enabled) or (enabled is None and version.version in since)


def _changed_unseen(changes: list[tuple[Any, Any]], segment: str | None, own: Sequence[Record]) -> str | None:
    """Say that an object changed more often than this run explains, where its versions don't show the percentage."""
    if any(percentage_of(version.flag_config, segment) is not None for change in changes for version in change):
        return None
    unseen = [later for earlier, later in changes if _shown(earlier) == _shown(later)]
    explained = sum(_unseen_writes(record) for record in own)
    if len(unseen) <= explained:
        return None
    return (
        f"was changed {len(unseen)} times where this run explains {explained}, last in version {unseen[-1].version}"
        f"{_by(unseen[-1])}; its versions don't show the percentage, so somebody may have lowered it"
    )


def _unseen_writes(record: Record) -> int:
    """Return how many versions that show no difference a task of this run may have written."""
    if "after" in record:  # a ramp
        return int(record["before"] != record["after"] and not record["segment"] and not record["switched_on"])
    if record.get("created") or record.get("enabled") is False:  # what is written while it is off is not counted
        return 0
    return len(record.get("updated") or ())


def last_change(versions: Sequence[Any]) -> str:
    """Say what the newest version changed, by whom and when; nothing where there are no versions."""
    if not versions:
        return ""
    *_, before, last = [None, *sorted(versions, key=lambda version: version.version)]
    now, then = last.flag_config, before.flag_config if before else None
    changes = []
    if then and then.rollout_percentage != now.rollout_percentage:
        changes.append(f"{then.rollout_percentage} % -> {now.rollout_percentage} %")
    if then and then.enabled != now.enabled:
        changes.append("enabled" if now.enabled else "disabled")
    return f" Its last change is version {last.version}{_by(last)}{': ' if changes else ''}{', '.join(changes)}."


def percentage_of(shown: Any, segment: str | None) -> int | float | None:
    """Return the percentage of all other users, or of one segment, where it is shown."""
    if segment is None:
        number: int | float | None = shown.rollout_percentage
        return number
    return next((each.percentage for each in shown.target_segments or () if each.name == segment), None)


def _since(ordered: list[Any], moment: datetime) -> list[Any]:
    """Return the version in force at a moment and all later ones; one without a date counts as later."""
    dates = [written_at(version) for version in ordered]
    earlier = [number for number, date in enumerate(dates) if date is not None and date <= moment]
    return ordered[earlier[-1] :] if earlier else ordered


def _after_own_lowering(timeline: list[Any], own: Sequence[Record], segment: str | None) -> list[Any]:
    """Leave out what came before a lowering that this run's own task was asked for."""
    for record in own:
        if record.get("segment") != segment or record.get("after", 100) >= record.get("before", 0):
            continue
        for number, (earlier, later) in enumerate(pairwise(timeline), 1):
            stood = percentage_of(earlier.flag_config, segment), percentage_of(later.flag_config, segment)
            if stood == (record["before"], record["after"]):
                timeline = timeline[number:]
                break
    return timeline


def written_at(version: Any) -> datetime | None:
    """Return when a version was written, in UTC, where the API says so."""
    if not version.created_at:
        return None
    moment = datetime.fromisoformat(version.created_at)
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


def _shown(version: Any) -> dict[str, Any]:
    return {field: value for field, value in version.flag_config.as_json().items() if field not in INVISIBLE}


def _by(version: Any) -> str:
    facts = [f"by {version.created_by}"] if version.created_by else []
    facts += [f"at {version.created_at}"] if version.created_at else []
    return f" ({' '.join(facts)})" if facts else ""
