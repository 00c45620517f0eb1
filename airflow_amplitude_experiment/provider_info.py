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

ANALYTICS_FIELDS: dict[str, Any] = {
    "region": {
        "label": "Data region",
        "description": "Where Amplitude keeps the organization's data. Keys of one region are unknown in the other.",
        "schema": {"type": ["string", "null"], "enum": ["us", "eu"], "default": "us"},
    },
    "timezone": {
        "label": "Project time zone",
        "description": "As in Amplitude's project settings, e.g. Europe/Berlin: tells which day of a chart is over. "
        "Empty: a day counts once it is over everywhere on earth. Cohorts don't need it.",
        "schema": {"type": ["string", "null"]},
    },
    "timeout": {
        "label": "Timeout (seconds)",
        "description": "How long to wait for a connection, and for each part of an answer.",
        "schema": {"type": ["integer", "null"], "minimum": 1, "default": 30},
    },
}

ANALYTICS_FORM_BEHAVIOUR: dict[str, Any] = {
    "hidden-fields": ["schema", "port", "extra"],
    "relabeling": {"login": "Project API key", "password": "Project secret key", "host": "Base URL (optional)"},
    "placeholders": {
        "login": "from Amplitude: Settings > Projects",
        "password": "from the same page; not a management key",
        "host": "only for an emulator or a proxy, e.g. http://127.0.0.1:8765",
    },
}

CONFIG: dict[str, Any] = {
    "amplitude_experiment": {
        "description": "Settings of the provider for Amplitude Experiment.",
        "options": {
            "audit_path": {
                "description": "Folder or bucket (an ObjectStoragePath) that takes one immutable JSON object for each\n"
                "line of the audit log. Where it can't be written, nothing goes up; the way down goes on.\n"
                "Empty: the task logs are the only audit log.\n",
                "version_added": "0.1.0",
                "type": "string",
                "example": "s3://aws_default@audit-bucket/amplitude",
                "default": None,
            }
        },
    }
}
_NAME = "Amplitude Experiment"


def _modules(package: str, *names: str) -> list[dict[str, Any]]:
    found = [f"airflow_amplitude_experiment.{package}.{name}" for name in names]
    return [{"integration-name": _NAME, "python-modules": found}]


def get_provider_info() -> dict[str, Any]:
    """Return the provider metadata that Airflow's ``apache_airflow_provider`` entry point asks for."""
    return {
        "package-name": "airflow-provider-amplitude-experiment",
        "name": _NAME,
        "description": "Staged rollouts of Amplitude flags and experiments.",
        "integrations": [
            {
                "integration-name": _NAME,
                "external-doc-url": "https://amplitude.com/docs/apis/experiment",
                "tags": ["service"],
            }
        ],
        "operators": _modules(
            "operators",
            "api_call",
            "approval",
            "archive",
            "begin",
            "create",
            "decide",
            "deployments",
            "export_cohort",
            "groups",
            "kill",
            "ramp",
            "ramp_stage",
            "reconcile",
            "rollback",
            "sync",
            "update",
            "watch",
            "weights",
        ),
        "sensors": _modules("sensors", "end_date", "state"),
        "hooks": _modules("hooks", "analytics", "experiment"),
        "triggers": _modules("triggers", "approval", "change", "cohort", "end_date", "state"),
        "connection-types": [
            {
                "connection-type": "amplitude_experiment",
                "hook-class-name": "airflow_amplitude_experiment.hooks.experiment.AmplitudeExperimentHook",
                "hook-name": "Amplitude Experiment",
                "ui-field-behaviour": FORM_BEHAVIOUR,
                "conn-fields": CONNECTION_FIELDS,
            },
            {
                "connection-type": "amplitude_analytics",
                "hook-class-name": "airflow_amplitude_experiment.hooks.analytics.AmplitudeAnalyticsHook",
                "hook-name": "Amplitude Analytics",
                "ui-field-behaviour": ANALYTICS_FORM_BEHAVIOUR,
                "conn-fields": ANALYTICS_FIELDS,
            },
        ],
        "extra-links": ["airflow_amplitude_experiment.ui.links.OpenInAmplitudeLink"],
        "config": CONFIG,
    }
