"""The page behind an object's web link: what a person sees who follows it to the emulator."""

from __future__ import annotations

from html import escape
from typing import Any

from .store import Store, Thing

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:3rem auto;padding:0 1rem;color:#1e2b3a}"
    "table{border-collapse:collapse;width:100%;margin:.5rem 0 2rem}"
    "th,td{text-align:left;padding:.35rem .75rem;border-bottom:1px solid #dfe4ea}"
)


def page(store: Store, thing: Thing) -> bytes:
    """Return a small page about one object. Every value on it is escaped."""
    data = thing.data
    facts = [("Key", data["key"]), ("Name", data["name"]), ("Id", data["id"]), ("Project", data["projectId"])]
    facts += [(label, data[name]) for label, name in _FACTS if name in data]
    versions = [(one.number, one.created_at, one.created_by, _state(one.config)) for one in thing.versions[::-1]]
    body = [
        f"<h1>{_text(data['key'])}</h1><p>A {_text(thing.kind)} in the local Amplitude emulator.</p>",
        _table(("", ""), facts),
        _table(("Variant", "Weight", "Users", "Cohorts"), _variants(data)),
        _table(("Version", "Time", "By", "State"), versions),
    ]
    head = f"<meta charset='utf-8'><title>{_text(data['key'])}</title><style>{_STYLE}</style>"
    document = f"<!DOCTYPE html><html lang='en'><head>{head}</head><body>{''.join(body)}</body></html>"
    return document.encode("utf-8", "replace")


_FACTS = (
    ("Enabled", "enabled"),
    ("Percentage", "rolloutPercentage"),
    ("Held out", "holdoutPercentage"),
    ("State", "state"),
    ("Archived", "deleted"),
    ("Changed", "lastModifiedAt"),
    ("Changed by", "lastModifiedBy"),
)


def _variants(data: dict[str, Any]) -> list[tuple[Any, ...]]:
    if "slots" in data:
        return [(one["variantKey"], one["percentage"], len(one["individuals"]), 0) for one in data["slots"]]
    weights = data.get("rolloutWeights", {})
    return [
        (one["key"], weights.get(one["key"], 0), len(one["users"]), len(one["cohorts"]))
        for one in data.get("variants", [])
    ]


def _state(config: dict[str, Any]) -> str:
    return f"{'on' if config['enabled'] else 'off'}, {config['rolloutPercentage']} %"


def _table(head: tuple[str, ...], rows: list[Any]) -> str:
    if not rows:
        return ""
    cells = "".join(f"<th>{_text(one)}</th>" for one in head)
    lines = "".join("<tr>" + "".join(f"<td>{_text(one)}</td>" for one in row) + "</tr>" for row in rows)
    return f"<table><tr>{cells}</tr>{lines}</table>"


def _text(value: Any) -> str:
    words = {True: "yes", False: "no"}
    return escape(words[value] if isinstance(value, bool) else str(value))
