"""The ``amplitude_emulator`` pytest fixture.

pytest loads this module in every run of everybody who installed the package, so it imports nothing until the
fixture is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .handle import Emulator


@pytest.fixture(scope="session")
def _amplitude_emulator_server() -> Iterator[Emulator]:
    from .handle import Emulator

    with Emulator() as emulator:
        yield emulator


@pytest.fixture
def amplitude_emulator(_amplitude_emulator_server: Emulator) -> Emulator:
    """A local Amplitude in its first state; the server is shared by all tests of the run."""
    _amplitude_emulator_server.reset()
    return _amplitude_emulator_server
