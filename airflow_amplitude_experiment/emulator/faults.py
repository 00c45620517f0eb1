"""Faults on demand: what the emulator does wrong when a test asks for it.

==============  ==============================================================  =======
kind            what the client sees                                            applied
==============  ==============================================================  =======
``refuse``      the connection is reset                                         no
``cut_before``  the connection is closed without an answer                      no
``cut_after``   the connection is closed without an answer                      yes
``late``        the answer comes ``seconds`` later (default 1)                  yes
``truncated``   the answer ends in the middle, against its Content-Length       yes
``html``        200 with a web page, as a proxy or a wrong host answers         no
``status``      an error ``status`` (default 500) with ``body``, ``headers``    no, or with ``after=True`` yes
``rate_limit``  429; with ``retry_after`` seconds, or ``retry_after_date=N``    no
                for an HTTP date in N seconds, or neither
``redirect``    ``status`` (default 302) to ``location``                        no
==============  ==============================================================  =======

A fault matches by ``method``, by ``path`` (a glob on the path as it was sent, without the query) and a number of
``times`` (``None``: until the faults are cleared), after letting ``skip`` requests pass. Requests of SDKs only
match a ``path`` that starts with ``/sdk``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

KINDS: dict[str, dict[str, Any]] = {
    "refuse": {},
    "cut_before": {},
    "cut_after": {},
    "late": {"seconds": 1.0},
    "truncated": {},
    "html": {},
    "status": {"status": 500, "body": "Something went wrong.", "headers": {}, "after": False},
    "rate_limit": {"retry_after": None, "retry_after_date": None},
    "redirect": {"status": 302, "location": "https://example.com/"},
}


@dataclass
class Fault:
    """One fault that waits for its requests."""

    kind: str
    method: str = "*"
    path: str = "*"
    times: int | None = 1
    skip: int = 0
    details: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, given: Mapping[str, Any]) -> Fault:
        """Read a fault from plain JSON.

        :raises ValueError: an unknown kind or a detail that the kind does not have.
        """
        details = dict(given)
        kind = details.pop("kind", None)
        if kind not in KINDS:
            raise ValueError(f"unknown fault {kind!r}; there are {', '.join(KINDS)}")
        common = {name: details.pop(name) for name in ("method", "path", "times", "skip") if name in details}
        unknown = sorted(set(details) - set(KINDS[kind]))
        if unknown:
            raise ValueError(f"fault {kind} has no {', '.join(unknown)}")
        return cls(kind, **common, details={**KINDS[kind], **details})

    def as_dict(self) -> dict[str, Any]:
        """Return the fault as plain JSON."""
        common = {"kind": self.kind, "method": self.method, "path": self.path}
        return {**common, "times": self.times, "skip": self.skip, **self.details}

    def matches(self, method: str, path: str) -> bool:
        """Say whether this fault is meant for a request."""
        if path.startswith("/sdk") and not self.path.startswith("/sdk"):
            return False
        return self.method.upper() in ("*", method) and fnmatchcase(path, self.path)


class Faults:
    """The faults that are waiting, in the order they were asked for."""

    def __init__(self) -> None:
        self._waiting: list[Fault] = []

    def add(self, fault: Fault) -> None:
        """Let a fault wait for its requests."""
        self._waiting.append(fault)

    def clear(self) -> None:
        """Forget all faults."""
        self._waiting.clear()

    def waiting(self) -> list[dict[str, Any]]:
        """Return what is still to come."""
        return [fault.as_dict() for fault in self._waiting]

    def take(self, method: str, path: str) -> Fault | None:
        """Return the fault for a request, and count it down."""
        for fault in self._waiting:
            if not fault.matches(method, path):
                continue
            if fault.skip > 0:
                fault.skip -= 1
                return None
            if fault.times is not None:
                fault.times -= 1
                if fault.times <= 0:
                    self._waiting.remove(fault)
            return fault
        return None
