"""What the tests of operators share."""

import json
import logging

import pytest


@pytest.fixture
def told(caplog):
    """Return the audit lines of the log."""
    caplog.set_level(logging.INFO)
    return lambda: [
        json.loads(each.getMessage().removeprefix("AUDIT "))
        for each in caplog.records
        if each.getMessage().startswith("AUDIT ")
    ]
