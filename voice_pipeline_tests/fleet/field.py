"""A field: an edge that serves small released models to a fleet of people with synthesised voices."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from voice_pipeline.fleet.scenario import Populations, populations
from voice_pipeline.packaging.repository import UpdateRepository
from voice_pipeline.schema.release import ReleaseState
from voice_pipeline.speech.audio import Samples
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import bundles
from voice_pipeline_tests.packaging.small_models import sign_small_bundle
from voice_pipeline_tests.transitions import take

V1, V2 = "m-20261102-00000001", "m-20261102-00000002"


@dataclass(frozen=True)
class Spoken:
    """A corpus clip of noise; one second."""

    text: str
    speaker: str
    split: str
    number: int
    accent: str = "none"
    gender: str = ""
    corpus: str = "noise"

    def samples(self) -> Samples:
        import numpy as np

        return np.random.default_rng(self.number).normal(0, 0.05, 16_000).astype(np.float32)


def clips(population: str, speakers: int, each: int, split: str = "test") -> list[Spoken]:
    """`speakers` × `each` clips, told apart by their number."""
    first = 0 if population == "home" else 1000
    return [Spoken("one two three", f"{population}-{n % speakers}", split, first + n) for n in range(speakers * each)]


def people(seed: int = 1) -> Populations:
    return populations(clips("home", 4, 3), clips("new", 6, 5), seed)


def publish(store: Store, model_version: str, seed: int) -> str:
    """A signed, published bundle in the catalogue; returns its digest."""
    manifest = sign_small_bundle(store.settings, model_version, seed)
    folder: Path = store.settings.bundles / model_version
    UpdateRepository(store.settings, store.now()).publish(folder, manifest)
    at = store.now().isoformat()
    row = {"bundle_digest": manifest.digest, "model_version": model_version, "uri": str(folder), "size": 1}
    with store.database.write() as connection:
        connection.execute(
            bundles.insert(),
            row | {"manifest": manifest.model_dump(mode="json"), "published_at": at, "created_at": at},
        )
    return manifest.digest


def move(store: Store, model_version: str, digest: str, *states: ReleaseState) -> None:
    """Write transitions of a release into the ledger."""
    take(store, f"{model_version}-r1", model_version, digest, *states)
