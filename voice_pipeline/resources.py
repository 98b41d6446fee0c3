"""The one Dagster resource, `store`: all stored state of this home, opened when a run or a sensor first asks for it.

Shell functions take it as `store: ResourceParam[Store]`; stories and tests put a `Store` with their own clock in its
place.
"""

from __future__ import annotations

from dagster import InitResourceContext, resource

from voice_pipeline.settings import load_settings
from voice_pipeline.store.store import Store


@resource(description="Databases, blobs, vault and ledger of VOICE_PIPELINE_HOME.")
def store_resource(_context: InitResourceContext) -> Store:
    return Store.open(load_settings())
