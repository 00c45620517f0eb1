"""What a rollout decides, apart from Airflow and from any request."""
