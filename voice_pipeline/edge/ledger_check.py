"""While the edge runs, its ledger is verified again and again: what devices are told comes from a ledger that holds."""

from __future__ import annotations

import threading
from datetime import datetime, timedelta

from voice_pipeline.store.errors import LedgerBrokenError
from voice_pipeline.store.store import Store

EVERY = timedelta(minutes=1)


class LedgerCheck:
    """Verifies at most once in `EVERY` of the store's clock, and remembers what came out."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._checked_at: datetime | None = None
        self._problem = ""
        self._busy = threading.Lock()

    def check(self) -> None:
        """Raises:
        LedgerBrokenError: the ledger did not verify when it was last asked, less than `EVERY` ago.
        """
        with self._busy:
            now = self._store.now()
            if self._checked_at is None or abs(now - self._checked_at) >= EVERY:
                self._problem = self._verified()
                self._checked_at = now
            problem = self._problem
        if problem:
            raise LedgerBrokenError(problem)

    def _verified(self) -> str:
        try:
            self._store.ledger.verify()
        except LedgerBrokenError as error:
            return str(error)
        return ""
