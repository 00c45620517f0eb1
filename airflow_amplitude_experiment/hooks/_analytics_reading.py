"""What reading charts and reading cohorts have in common. Pure, and light to import."""

from __future__ import annotations

import re
from typing import Any, Literal

IN_PROGRESS, COMPLETED = "JOB INPROGRESS", "JOB COMPLETED"
"""How an export of a cohort stands. Nothing else is documented."""


class Unreadable(Exception):
    """An answer that doesn't hold what was asked for."""


def checked_id(kind: Literal["chart", "cohort"], given: Any) -> str:
    """Return an id as it is sent: the last part of an address in Amplitude's app.

    :raises ValueError: it can't be one; an address is told apart from the id in it.
    """
    text = given.strip() if isinstance(given, str) else ""
    if re.fullmatch(r"[A-Za-z0-9_-]{1,64}", text):
        return text
    within = re.search(rf"/{kind}/([A-Za-z0-9_-]{{1,64}})", text)
    meant = f"; {within[1]!r} may be meant" if within else ""
    raise ValueError(
        f"{kind} id is {short(given)}, but must be the last part of the {kind}'s address in Amplitude (letters, "
        f"digits, - and _){meant}"
    )


def short(value: Any) -> str:
    """Return a repr that fits in a log line."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
