"""A home whose ledger has grown a little."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with `LINES` lines, to be copied."""
    from voice_pipeline_tests.store.test_checkpoint import LINES, close, grow, open_home

    home = tmp_path_factory.mktemp("grown") / "home"
    store = open_home(home)
    grow(store, LINES)
    close(store)
    return home
