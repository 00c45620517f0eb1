"""DAG files for ``dag.test()``, on every supported Airflow."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def loaded(airflow_home: Path, name: str, text: str) -> Any:
    """Write a DAG file into the DAGs folder, let Airflow store it, and return its DAG of the same name."""
    from airflow.dag_processing.bundles.manager import DagBundlesManager

    options: dict[str, Any] = {}
    try:
        from airflow.dag_processing.dagbag import DagBag, sync_bag_to_db

        options["bundle_name"] = "dags-folder"
    except ImportError:  # Airflow 3.1
        from airflow.models.dagbag import DagBag, sync_bag_to_db

    path = airflow_home / "dags" / f"{name}.py"
    path.write_text(text)
    DagBundlesManager().sync_bundles_to_db()
    bag = DagBag(path, bundle_path=path.parent, **options)
    assert not bag.import_errors, bag.import_errors
    sync_bag_to_db(bag, "dags-folder", None)
    return bag.dags[name]
