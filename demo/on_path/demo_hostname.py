"""The name under which Airflow's components know each other.

Airflow asks the resolver for the machine's full name by default, which may ask a name server, and its log
reader then connects to the address behind it. In the demo and in the tests everything is on the loopback
interface, so that is the name. This folder, and nothing else, is on the components' ``PYTHONPATH``.
"""


def loopback() -> str:
    return "127.0.0.1"
