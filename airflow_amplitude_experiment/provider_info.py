"""What Airflow reads about this provider at start-up.

Airflow calls :func:`get_provider_info` while its configuration is still being initialised, so nothing is
imported here. A mistake in the returned data breaks every ``airflow`` command; a test checks it against
Airflow's own schema.
"""

from typing import Any

CONNECTION_FIELDS: dict[str, Any] = {
    "region": {
        "label": "Data region",
        "description": "Where Amplitude keeps the organization's data. A key of one region is unknown in the other.",
        "schema": {"type": ["string", "null"], "enum": ["us", "eu"], "default": "us"},
    },
    "project_id": {
        "label": "Project id",
        "description": "The one project that tasks may write to, e.g. 123456. Any other project is refused.",
        "schema": {"type": ["string", "null"]},
    },
    "environment": {
        "label": "Environment",
        "description": "Free text, e.g. production. It stands in the log line of every write.",
        "schema": {"type": ["string", "null"]},
    },
    "organization": {
        "label": "Organization URL name",
        "description": "e.g. acme, if the app's address is app.amplitude.com/experiment/acme. For Open in Amplitude.",
        "schema": {"type": ["string", "null"]},
    },
    "mode": {
        "label": "Mode",
        "description": "read_only: decide, log what would be sent, and change nothing.",
        "schema": {"type": ["string", "null"], "enum": ["write", "read_only"], "default": "write"},
    },
    "allow_keys": {
        "label": "Allowed keys",
        "description": "Only objects whose key matches can be changed, e.g. checkout-*, search-*. Empty: all.",
        "schema": {"type": ["string", "null"]},
    },
    "deny_keys": {
        "label": "Denied keys",
        "description": "Objects whose key matches can't be changed, e.g. billing-*. Empty: none.",
        "schema": {"type": ["string", "null"]},
    },
    "max_percentage": {
        "label": "Highest percentage",
        "description": "No change raises anything above it. A kill and a rollback always pass. Empty: no limit.",
        "schema": {"type": ["integer", "null"], "minimum": 0, "maximum": 100},
    },
    "max_step": {
        "label": "Largest step (points)",
        "description": "No single change raises anything by more percentage points. Empty: no limit.",
        "schema": {"type": ["integer", "null"], "minimum": 1, "maximum": 100},
    },
    "require_reason": {
        "label": "Require a reason",
        "description": "Refuse a change that gives no reason.",
        "schema": {"type": ["boolean", "null"], "default": False},
    },
    "timeout": {
        "label": "Timeout (seconds)",
        "description": "How long to wait for a connection, and for each part of an answer.",
        "schema": {"type": ["integer", "null"], "minimum": 1, "default": 30},
    },
    "requests_per_second": {
        "label": "Requests per second",
        "description": "Pace of one task. Amplitude allows 100 a second for the whole project.",
        "schema": {"type": ["integer", "null"], "minimum": 1, "maximum": 100, "default": 5},
    },
    "dialect": {
        "label": "API version",
        "description": "beta only for accounts that still use the older Management API.",
        "schema": {"type": ["string", "null"], "enum": ["v1", "beta"], "default": "v1"},
    },
}

# Airflow shows placeholders in its standard fields only; examples for the others stand in their descriptions.
FORM_BEHAVIOUR: dict[str, Any] = {
    "hidden-fields": ["schema", "port", "login", "extra"],
    "relabeling": {"password": "Management API key", "host": "Base URL (optional)"},
    "placeholders": {
        "password": "from Amplitude: Experiment > Management API",
        "host": "only for an emulator or a proxy, e.g. http://127.0.0.1:8765",
    },
}


def get_provider_info() -> dict[str, Any]:
    """Return the provider metadata that Airflow's ``apache_airflow_provider`` entry point asks for."""
    return {
        "package-name": "airflow-provider-amplitude-experiment",
        "name": "Amplitude Experiment",
        "description": "Staged rollouts of Amplitude flags and experiments.",
        "connection-types": [
            {
                "connection-type": "amplitude_experiment",
                "hook-class-name": "airflow_amplitude_experiment.hooks.experiment.AmplitudeExperimentHook",
                "hook-name": "Amplitude Experiment",
                "ui-field-behaviour": FORM_BEHAVIOUR,
                "conn-fields": CONNECTION_FIELDS,
            }
        ],
        "extra-links": ["airflow_amplitude_experiment.ui.links.OpenInAmplitudeLink"],
    }
