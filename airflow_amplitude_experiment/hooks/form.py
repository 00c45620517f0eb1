"""The connection form for Airflow before 3.2, made from the same data as the later, declarative one."""

from __future__ import annotations

from typing import Any


def widgets(fields: dict[str, Any]) -> dict[str, Any]:
    """Return WTForms fields for the connection's extra. Airflow 3.1 stands in for WTForms where it is missing."""
    from wtforms import BooleanField, IntegerField, StringField
    from wtforms.validators import Optional, any_of

    by_type = {"string": StringField, "integer": IntegerField, "boolean": BooleanField}
    form: dict[str, Any] = {}
    for name, field in fields.items():
        schema = field["schema"]
        kind = schema["type"] if isinstance(schema["type"], str) else schema["type"][0]
        form[name] = by_type[kind](
            field["label"],
            validators=[Optional(), *([any_of(schema["enum"])] if "enum" in schema else [])],
            description=field["description"],
            default=schema.get("default"),
        )
    return form
