"""The one-command demo: a local Amplitude, a real Airflow, and a flag that goes from 0 to 100 %.

Nothing here is part of the published package. ``AirflowServer`` is also what the end-to-end tests run on.
"""
