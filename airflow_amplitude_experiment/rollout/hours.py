"""When a stage is looked at.

Pure: a grid of moments that starts when the stage was reached. A look that came late, a retry or a cleared task moves
no moment of it, so a bake is never shortened and the deciding look is never taken early.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import NamedTuple


class Hours(NamedTuple):
    """When a stage is looked at.

    :param since: when the stage was reached, UTC.
    :param until: when the look that decides is due; ``None`` while an approval is open.
    :param hold_until: when a verdict other than ``pass`` is no longer waited out.
    :param every: how long between two looks.
    """

    since: datetime
    until: datetime | None
    hold_until: datetime | None
    every: timedelta

    def is_over(self, now: datetime) -> bool:
        """Whether a look that is taken now decides."""
        return self.until is not None and now >= self.until

    def is_held_no_longer(self, now: datetime) -> bool:
        """Whether nothing but ``pass`` is waited for any more."""
        return self.hold_until is not None and now >= self.hold_until

    def is_due(self, looked_at: datetime, now: datetime) -> bool:
        """Whether a moment of the grid has come since the last look."""
        return self._latest(now) > looked_at or self.is_held_no_longer(now)

    def following(self, now: datetime) -> datetime:
        """Return the next moment at which to look."""
        ends = [end for end in (self.until, self.hold_until) if end is not None and end > now]
        return min([self._latest(now) + self.every, *ends])

    def _latest(self, now: datetime) -> datetime:
        """Return the newest moment of the grid; it starts anew where the deciding look is."""
        start = self.until if self.until is not None and now >= self.until else self.since
        return start + max(now - start, timedelta(0)) // self.every * self.every
