"""What a look at an object comes to for a wait. Apart, as it is named while a DAG is parsed and must load nothing."""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple


class Verdict(NamedTuple):
    """What an object, as it was just read, means for a wait.

    :param record: the wait is over, and this is its result.
    :param matters_at: the next moment at which it may be over although nobody changes the object.
    :param said: what a person should know of, once.
    """

    record: dict[str, Any] | None = None
    matters_at: datetime | None = None
    said: str | None = None
