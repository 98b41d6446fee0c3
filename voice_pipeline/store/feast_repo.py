"""The feature store of a home: Feast over DuckDB (offline) and SQLite (online), as `feature_repo/` defines it.

The `feast` command and this module read the same two files, so there is one truth: `feature_store.yaml` with this
home's path put in, and the objects of `definitions.py`. Importing Feast takes seconds, so it happens at first use.
"""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import io
import math
import os
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import yaml

from voice_pipeline.settings import PROJECT_ROOT, QUIET
from voice_pipeline.store.blobs import write_atomically
from voice_pipeline.store.errors import MissingFeaturesError, StoreError
from voice_pipeline.store.store import Store

if TYPE_CHECKING:
    import pandas as pd

FEATURE_REPO = PROJECT_ROOT / "feature_repo"
FEATURE_SERVICE = "clip_features_v1"
PUBLISHED = "published_until"
HOME_VARIABLE = "${VOICE_PIPELINE_HOME}"

Features = dict[str, float | None]


def source_folder(store: Store) -> Path:
    """Where the parquet files lie that Feast reads."""
    return store.settings.feast_repo / "data"


def declared_features(definitions: Path = FEATURE_REPO / "definitions.py") -> dict[str, str]:
    """Name → type (`Float64`, `Int64`) of every feature that the definitions declare, read from their text.

    Importing Feast to ask it takes ten seconds and more; `test_feast.py` holds this answer to Feast's own.
    """
    declared: dict[str, str] = {}
    for call in ast.walk(ast.parse(definitions.read_text())):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "Field":
            told = {word.arg: word.value for word in call.keywords}
            declared[ast.literal_eval(told["name"])] = ast.unparse(told["dtype"])
    return declared


def is_published(store: Store) -> bool:
    """Whether a whole publication is online in this home; cheap, imports nothing."""
    return published_until(store) is not None


def published_until(store: Store) -> datetime | None:
    """The newest row that the last whole publication brought online; None where the online store must be made afresh:
    nothing was ever published, a publication that makes it afresh was cut short, or its files are gone.
    """
    folder = store.settings.feast_repo
    if not all((folder / name).exists() for name in (PUBLISHED, "registry.db", "online.db")):
        return None
    until = (folder / PUBLISHED).read_text()
    return datetime.fromisoformat(until) if until else None


def note_published(store: Store, until: datetime) -> None:
    """Say that the online store holds every row of the sources, the newest of `until`: the last step of publishing."""
    write_atomically(store.settings.feast_repo / PUBLISHED, until.isoformat().encode())


def unpublish(store: Store) -> None:
    """Say that the online store must be made afresh: before the sources lose a row that is online."""
    write_atomically(store.settings.feast_repo / PUBLISHED, b"")


def publish_sources(store: Store, since: datetime, until: datetime, afresh: bool) -> None:
    """Register the definitions and bring the online store up to date with the parquet files.

    Args:
        since: rows known earlier than this are online already (ignored with `afresh`).
        until: rows known later than this are not served yet.
        afresh: empty the online store first, so that rows which left the sources leave it too.
    """
    with feature_store(store) as feast_store:
        objects = _definitions().feature_objects(source_folder(store))
        if afresh:
            (store.settings.feast_repo / "online.db").unlink(missing_ok=True)
            (store.settings.feast_repo / "registry.db").unlink(missing_ok=True)
            feast_store.refresh_registry()
        feast_store.apply(objects)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            feast_store.materialize(since, until)


def online_features(store: Store, profiles: Mapping[str, str]) -> dict[str, Features]:
    """What is known now about clips.

    Args:
        profiles: clip id → device profile (`device_class|microphone|locale`).

    Returns:
        clip id → feature name → value, None where nothing is known; clips Feast never heard of have all None.
        Empty where nothing was ever published.
    """
    if not profiles or not is_published(store):
        return {}
    with feature_store(store) as feast_store:
        answer = feast_store.get_online_features(
            features=feast_store.get_feature_service(FEATURE_SERVICE),
            entity_rows=[{"clip_id": clip, "device_profile": profile} for clip, profile in profiles.items()],
        ).to_dict()
    names = [name for name in answer if name not in ("clip_id", "device_profile")]
    return {
        clip: {name: _value(answer[name][position]) for name in names}
        for position, clip in enumerate(answer["clip_id"])
    }


def features_at(store: Store, entities: pd.DataFrame) -> pd.DataFrame:
    """Point-in-time join: each row of `entities` (clip_id, device_profile, event_timestamp) with what was known then.

    Raises:
        MissingFeaturesError: features were never published, or the join lost or doubled rows.
    """
    if not is_published(store):
        raise MissingFeaturesError("no features are published in this home; materialise feature_store first")
    with feature_store(store) as feast_store:
        service = feast_store.get_feature_service(FEATURE_SERVICE)
        joined: pd.DataFrame = feast_store.get_historical_features(entity_df=entities, features=service).to_df()
    if len(joined) != len(entities) or set(joined["clip_id"]) != set(entities["clip_id"]):
        raise MissingFeaturesError(
            f"the point-in-time join gave {len(joined)} rows for {len(entities)} clips; check the offline store type"
        )
    return joined


@contextlib.contextmanager
def feature_store(store: Store) -> Iterator[Any]:
    """The `feast.FeatureStore` of this home."""
    os.environ.update(QUIET)
    from feast import FeatureStore
    from feast.repo_config import RepoConfig

    text = (FEATURE_REPO / "feature_store.yaml").read_text()
    store.settings.feast_repo.mkdir(parents=True, exist_ok=True)
    config = RepoConfig(**yaml.safe_load(text.replace(HOME_VARIABLE, str(store.settings.root))))
    config.repo_path = store.settings.feast_repo
    yield FeatureStore(config=config)


def _definitions() -> ModuleType:
    spec = importlib.util.spec_from_file_location("voice_pipeline_feature_repo", FEATURE_REPO / "definitions.py")
    if spec is None or spec.loader is None:
        raise StoreError(f"{FEATURE_REPO}/definitions.py cannot be loaded; is the installation whole?")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _value(value: Any) -> float | None:
    return None if value is None or math.isnan(value) else float(value)
