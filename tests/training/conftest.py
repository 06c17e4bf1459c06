"""Clips that the tests of trainings share."""

from __future__ import annotations

import pytest

from lumiere.data.clips import ClipStore
from tests.training.test_tasks import write_clips


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> tuple[ClipStore, ClipStore]:
    """As `write_clips` says."""
    return write_clips(tmp_path_factory.mktemp("clips"))
