"""A warehouse for the end-to-end tests: a connection type of its own, found by Airflow as any provider is.

Airflow asks for this while it starts, so nothing is imported here.
"""

NAME = "airflow-provider-sqlite-warehouse"


def get_provider_info() -> dict[str, object]:
    return {
        "package-name": NAME,
        "name": "SQLite warehouse",
        "description": "SQLite that reads Snowflake's words.",
        "connection-types": [
            {
                "connection-type": "sqlite_warehouse",
                "hook-class-name": "sqlite_warehouse.hook.SqliteWarehouseHook",
                "hook-name": "SQLite warehouse",
            }
        ],
    }
