"""What every test of the API client needs: waiting that takes no time, and certificates that are read once."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from functools import lru_cache

import httpx
import pytest

from .builders import Waiting


@pytest.fixture(scope="session", autouse=True)
def certificates_read_once() -> Iterator[None]:
    """Reading them costs 20 ms per client, and nobody here speaks TLS."""
    with pytest.MonkeyPatch.context() as patch:
        context = lru_cache(lambda *_, **__: ssl.create_default_context())
        patch.setattr(httpx._transports.default, "create_ssl_context", context)
        yield


@pytest.fixture
def waiting(monkeypatch: pytest.MonkeyPatch) -> Waiting:
    """The clock of both clients: it stands still until one of them sleeps."""
    return Waiting.installed(monkeypatch)
