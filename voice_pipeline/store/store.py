"""All stored state of one home, opened together."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from voice_pipeline.settings import Settings
from voice_pipeline.store.blobs import BlobStore
from voice_pipeline.store.checkpoint import CheckpointFile
from voice_pipeline.store.clock import Clock, SystemClock
from voice_pipeline.store.database import Database
from voice_pipeline.store.ledger import Ledger
from voice_pipeline.store.line_key import LineKeyFile
from voice_pipeline.store.tables import catalogue
from voice_pipeline.store.vault import Vault, home_salt
from voice_pipeline.store.vault_tables import vault


@dataclass(frozen=True)
class Store:
    """Handed to every pure function of every stage.

    Attributes:
        subject_salt: what pseudonyms of people and draws of devices are keyed with: `VOICE_PIPELINE_SUBJECT_SALT`, else
            this home's own.
    """

    settings: Settings
    database: Database
    blobs: BlobStore
    vault: Vault
    ledger: Ledger
    clock: Clock
    subject_salt: str = field(repr=False)

    @classmethod
    def open(cls, settings: Settings, clock: Clock | None = None) -> Store:
        """Open (and on first use make) everything under `settings.root`.

        Raises:
            DamagedDatabaseError: a database cannot be read.
        """
        clock = clock or SystemClock()
        settings.root.mkdir(parents=True, exist_ok=True)
        database = Database(settings.catalogue_url, catalogue)
        vault_database = Database(settings.vault_database_url, vault)
        return cls(
            settings=settings,
            database=database,
            blobs=BlobStore(settings.blobs),
            vault=Vault(vault_database, settings.keys, clock),
            ledger=Ledger(database, clock, CheckpointFile(settings.root, settings.keys), LineKeyFile(settings.keys)),
            clock=clock,
            subject_salt=settings.subject_salt.get_secret_value() or home_salt(settings.keys),
        )

    def now(self) -> datetime:
        return self.clock.now()
