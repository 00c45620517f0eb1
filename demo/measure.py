"""What the vendor's own SDK says: who of 10,000 users has the variant at this moment."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from amplitude_experiment import LocalEvaluationClient, LocalEvaluationConfig, User

USERS = 10_000


@dataclass(frozen=True)
class Measurement:
    """The users who had a variant when the flag's configuration was fetched.

    :param having: numbers of the users who have it.
    """

    having: frozenset[int]

    @property
    def percent(self) -> float:
        """The share of all users, in percent."""
        return 100 * len(self.having) / USERS


def measure(server_url: str, deployment_key: str, flag_key: str) -> Measurement:
    """Fetch the flag's configuration as a customer's server does, and evaluate it for every user.

    A new client each time: ``Experiment.initialize_local`` would hand out the first one again, with the
    configuration of its first fetch.
    """
    config = LocalEvaluationConfig(server_url=server_url, logger=logging.getLogger("demo.sdk"))
    client = LocalEvaluationClient(deployment_key, config)
    try:
        client.start()
        return Measurement(frozenset(number for number in range(USERS) if _has(client, flag_key, number)))
    finally:
        client.stop()


def _has(client: LocalEvaluationClient, flag_key: str, number: int) -> bool:
    """Whether the user is assigned; a flag that does not exist or yields its default is not."""
    variant = client.evaluate_v2(User(user_id=f"user-{number}"), {flag_key}).get(flag_key)
    return variant is not None and not (variant.metadata or {}).get("default", False)
