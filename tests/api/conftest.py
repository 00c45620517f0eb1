"""What every test of the API client needs: waiting that takes no time."""

from __future__ import annotations

import pytest

from .builders import Waiting


@pytest.fixture
def waiting(monkeypatch: pytest.MonkeyPatch) -> Waiting:
    """The clock of both clients: it stands still until one of them sleeps."""
    return Waiting.installed(monkeypatch)
