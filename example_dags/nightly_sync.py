"""Each night, who stands in a table of the warehouse gets a variant, and who no longer does loses it.

The sync follows the load of the table by its Airflow asset, however late that is, and reads the table as it is now. Do
not filter the query by the date of a run: an old run that is repeated would bring back users who have left since.

Needs a flag ``early-access`` with the variant ``on``, and the connections ``amplitude_experiment_default`` and
``warehouse``: of type ``snowflake`` or ``gcpbigquery`` (or change ``WAREHOUSE``), or, for a try, a file:

    pip install apache-airflow-providers-sqlite
    export AIRFLOW_CONN_WAREHOUSE='{"conn_type": "sqlite", "host": "/tmp/warehouse.db"}'
"""

from datetime import timedelta

from airflow.providers.common.sql.operators.sql import SQLExecuteQueryOperator
from airflow.sdk import DAG, Asset

from airflow_amplitude_experiment.operators import AmplitudeSyncVariantUsersOperator

WAREHOUSE = "warehouse"
TABLE = Asset("warehouse.early_access")
AGAIN = {"retries": 3, "retry_delay": timedelta(minutes=1), "retry_exponential_backoff": True}

# Stands for the load that you have: two users, where nobody is in the table yet. To yours, add ``outlets=[TABLE]``.
with DAG("nightly_load", schedule="0 2 * * *", catchup=False, max_active_runs=1, default_args=AGAIN):
    SQLExecuteQueryOperator(
        task_id="load",
        conn_id=WAREHOUSE,
        sql="""
            CREATE TABLE IF NOT EXISTS early_access (user_id VARCHAR(100));
            INSERT INTO early_access
            SELECT user_id FROM (SELECT 'user-1' AS user_id UNION ALL SELECT 'user-2') AS first_users
            WHERE NOT EXISTS (SELECT 1 FROM early_access);
        """,
        split_statements=True,
        outlets=[TABLE],
    )

with DAG(
    dag_id="nightly_sync",
    description="The users of a table into a variant",
    schedule=[TABLE],
    catchup=False,
    max_active_runs=1,
    # No dagrun_timeout: it would end a sync between two of its requests.
    default_args=AGAIN,
    tags=["amplitude", "users"],
) as dag:
    AmplitudeSyncVariantUsersOperator(
        task_id="sync",
        flag_key="early-access",
        variant="on",
        sql="SELECT user_id FROM early_access",
        conn_id=WAREHOUSE,
        mode="replace",  # the table is the whole list,
        keep=["tester-1", "tester-2"],  # but for these, who stay whatever it says
        max_change=200,  # users who come and go in one night; beyond that the load is looked at first
        reason="early access follows the warehouse",
    )
