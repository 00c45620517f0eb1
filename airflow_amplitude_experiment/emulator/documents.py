"""Reading seeds and saved states from files, and writing them."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any


def read(path: Path) -> Any:
    """Return the JSON or YAML in a file.

    :raises OSError: the file can't be read.
    :raises ValueError: it holds neither.
    """
    text = path.read_text(encoding="utf-8")
    return json.loads(text) if path.suffix == ".json" else _yaml(text, path.name)


def write(path: Path, document: Any) -> None:
    """Write JSON. It may hold keys: readable by its owner only, and never half written."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        json.dump(document, file, indent=2)
    beside.replace(path)


def _yaml(text: str, name: str) -> Any:
    try:
        import yaml
    except ImportError as error:  # Airflow 3.1 does not always bring it
        raise ValueError(f"{name}: reading YAML needs PyYAML; JSON (.json) does not") from error

    class Loader(yaml.SafeLoader):
        """YAML 1.1 reads ``on``, the usual variant, as true, and dates as objects; here both stay texts."""

        yaml_implicit_resolvers = {  # noqa: RUF012 - replaced as a whole, as PyYAML's own subclasses do
            first: [pair for pair in pairs if not pair[0].endswith((":bool", ":timestamp"))]
            for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
        }

    Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("^(?:true|false)$"), list("tf"))
    try:
        return yaml.load(text, Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"{name} is not YAML: {error}") from error
