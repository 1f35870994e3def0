"""These tests compute on tiny models."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module", autouse=True)
def _single_thread(one_thread: None) -> None:
    """See `one_thread`."""
