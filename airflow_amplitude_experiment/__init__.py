"""Staged rollouts of Amplitude flags and experiments from Apache Airflow.

Import from ``operators``, ``sensors``, ``hooks`` or ``api``. This module imports nothing: Airflow reads
provider metadata from the package while its own configuration is still being set up.
"""

__version__ = "0.1.0"
