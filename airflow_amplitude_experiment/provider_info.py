"""What Airflow reads about this provider at start-up.

Airflow calls :func:`get_provider_info` while its configuration is still being initialised, so nothing is
imported here. A mistake in the returned data breaks every ``airflow`` command; a test checks it against
Airflow's own schema.
"""

from typing import Any


def get_provider_info() -> dict[str, Any]:
    """Return the provider metadata that Airflow's ``apache_airflow_provider`` entry point asks for."""
    return {
        "package-name": "airflow-provider-amplitude-experiment",
        "name": "Amplitude Experiment",
        "description": "Staged rollouts of Amplitude flags and experiments.",
    }
