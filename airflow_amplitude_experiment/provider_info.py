"""What Airflow reads about this provider at start-up.

Airflow calls :func:`get_provider_info` while its configuration is still being initialised, so nothing is
imported here. A mistake in the returned data breaks every ``airflow`` command; a test checks it against
Airflow's own schema.
"""

from typing import Any

CONNECTION_FIELDS: dict[str, Any] = {
    "region": {
        "label": "Data region",
        "description": "Where the Amplitude organization keeps its data. A key of one region is unknown in the other.",
        "schema": {"type": "string", "enum": ["us", "eu"], "default": "us"},
    },
    "project_id": {
        "label": "Project id",
        "description": "The project that tasks may write to. Every write compares it with the object's own project.",
        "schema": {"type": ["string", "null"]},
    },
    "environment": {
        "label": "Environment",
        "description": "Free text, such as production. Shown in every log line of a write.",
        "schema": {"type": ["string", "null"]},
    },
    "organization": {
        "label": "Organization URL name",
        "description": "From the app's address, app.amplitude.com/experiment/<name>/…; for the link Open in Amplitude.",
        "schema": {"type": ["string", "null"]},
    },
    "mode": {
        "label": "Mode",
        "description": "read_only decides and logs what would be sent, and sends no change.",
        "schema": {"type": "string", "enum": ["write", "read_only"], "default": "write"},
    },
    "allow_keys": {
        "label": "Allowed keys",
        "description": "Globs, separated by commas. Where given, only objects whose key matches one can be changed.",
        "schema": {"type": ["string", "null"]},
    },
    "deny_keys": {
        "label": "Denied keys",
        "description": "Globs, separated by commas. Objects whose key matches one can't be changed.",
        "schema": {"type": ["string", "null"]},
    },
    "max_percentage": {
        "label": "Highest percentage",
        "description": "No rollout is raised above it (0 to 100).",
        "schema": {"type": ["integer", "null"], "minimum": 0, "maximum": 100},
    },
    "max_step": {
        "label": "Largest step",
        "description": "No single change raises a rollout by more percentage points (1 to 100).",
        "schema": {"type": ["integer", "null"], "minimum": 1, "maximum": 100},
    },
    "require_reason": {
        "label": "Require a reason",
        "description": "Refuse every change that gives no reason.",
        "schema": {"type": "boolean", "default": False},
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
        "label": "API",
        "description": "beta only for accounts that still use the older Management API.",
        "schema": {"type": "string", "enum": ["v1", "beta"], "default": "v1"},
    },
}

FORM_BEHAVIOUR: dict[str, Any] = {
    "hidden-fields": ["schema", "port", "login", "extra"],
    "relabeling": {"password": "Management API key", "host": "Base URL (optional)"},
    "placeholders": {
        "password": "from Amplitude: Experiment > Management API",
        "host": "only for an emulator or a proxy, e.g. http://127.0.0.1:8765",
        "project_id": "e.g. 123456",
        "environment": "e.g. production",
        "organization": "e.g. acme",
        "allow_keys": "e.g. checkout-*, search-*",
        "deny_keys": "e.g. billing-*",
        "max_percentage": "no limit",
        "max_step": "no limit",
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
