"""What a rollout decides, apart from Airflow and from any request."""

from airflow_amplitude_experiment.api.errors import RolloutRefused as RolloutRefused
