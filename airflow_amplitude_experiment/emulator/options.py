"""Where the published sources contradict each other, the emulator can answer both ways.

Each option names the alternatives; the first one is the default and is what the samples show. The letters
and numbers in the comments are those of the project's list of contradictions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, get_args, get_origin, get_type_hints


@dataclass(frozen=True)
class Options:
    """How the emulator answers. Change it with ``PATCH /_emulator/options`` or ``Emulator.options(...)``."""

    ids: Literal["string", "number"] = "string"  # A1
    member_ids: Literal["number", "string"] = "number"  # A3, A5: members of mutexes and holdouts
    cursor: Literal["string", "integer", "opaque"] = "string"  # B2
    next_cursor: Literal["top", "in_array"] = "top"  # B1
    end_of_list: Literal["absent", "null", "empty"] = "absent"  # B2
    default_limit: int = 100  # B6: not documented
    fields: Literal["sparse", "full"] = "sparse"  # E3, E28
    empty_payload: Literal["object", "null", "missing"] = "object"  # A11
    dates: Literal["date", "as_sent"] = "date"  # E5
    version_author: Literal["id", "email"] = "id"  # A12
    patch_body: Literal["text", "json", "empty"] = "text"  # D4
    error_body: Literal["text", "json"] = "text"  # D5
    key_filter: Literal["exact", "partial"] = "exact"  # B8
    present_inclusions: Literal[200, 403] = 200  # D3: adding only ids that are already there
    slot_lists: Literal["replace", "append"] = "replace"  # F2: what a PATCH of a slot does to its lists
    noop_versions: bool = False  # I7
    approvals: Literal["off", "pending", "reject"] = "off"  # G4: 200 without effect, or approval_status
    approval_scope: Literal["live", "documented"] = "live"
    approval_status: int = 403
    remote_flags: Literal["evaluate", "stub"] = "evaluate"
    requests_per_second: int | None = 100
    requests_per_day: int | None = 100_000
    retry_after: Literal["none", "seconds", "date"] = "none"  # D6
    chart_body: Literal["json_csv", "csv", "json"] = "json_csv"  # H7
    charts_at_once: int | None = 5  # H8
    chart_cost_per_5_minutes: int | None = 1000  # H8, H9
    chart_cost_per_hour: int | None = 108_000
    cohort_looks: int = 1  # how often an export is said to be in progress
    cohort_seconds: int = 0  # how long it is in progress at least
    cohort_inline: int = 1000  # users up to which the file is the answer itself and no link; not documented
    cohort_downloads: int | None = 500  # a month; H4
    cohort_requests: int | None = 60  # in 10 minutes; H4

    def changed(self, changes: Mapping[str, Any]) -> Options:
        """Return these options with some replaced.

        :raises ValueError: an unknown option, or a value that it does not take.
        """
        for name, value in changes.items():
            _check(name, value)
        return replace(self, **changes)

    def as_dict(self) -> dict[str, Any]:
        """Return all options as plain JSON."""
        return asdict(self)

    def differing(self) -> dict[str, Any]:
        """Return the options that differ from their defaults."""
        defaults = Options().as_dict()
        return {name: value for name, value in self.as_dict().items() if value != defaults[name]}


_HINTS = get_type_hints(Options)
_NAMES = tuple(field.name for field in fields(Options))


def _check(name: str, value: Any) -> None:
    if name not in _NAMES:
        raise ValueError(f"unknown option {name!r}; there are {', '.join(_NAMES)}")
    hint = _HINTS[name]
    if get_origin(hint) is Literal:
        if not any(value == choice and type(value) is type(choice) for choice in get_args(hint)):
            raise ValueError(f"option {name} takes one of {list(get_args(hint))}, not {value!r}")
    elif hint is bool:
        if not isinstance(value, bool):
            raise ValueError(f"option {name} takes true or false, not {value!r}")
    elif value is None and type(None) in get_args(hint):
        return
    elif not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"option {name} takes a whole number, not {value!r}")
