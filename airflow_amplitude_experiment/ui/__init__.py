"""What shows in Airflow's UI."""
