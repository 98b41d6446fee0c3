"""Typed settings, read from `VOICE_PIPELINE_*` and nowhere else. One home folder holds all local state."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

PROJECT_ROOT = Path(__file__).resolve().parent.parent

QUIET = {
    "DVC_NO_ANALYTICS": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "FEAST_USAGE": "False",
    "DAGSTER_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "ORT_DISABLE_TELEMETRY": "1",
}
"""Environment that turns the telemetry of every component off."""


def _default_home() -> Path:
    """The home around `DAGSTER_HOME`, where that is a home's instance: Dagster's own commands then work on the same
    home as its runs are kept in. Else `.voice_pipeline` in the current folder.
    """
    instance = Path(os.environ.get("DAGSTER_HOME", "")).expanduser()
    if instance.name == "dagster" and any((instance.parent / name).exists() for name in ("catalogue.db", "keys")):
        return instance.parent
    return Path(".voice_pipeline")


class Settings(BaseSettings):
    """All knobs of an installation. Empty URLs mean: embedded, inside `home`."""

    model_config = SettingsConfigDict(env_prefix="VOICE_PIPELINE_", frozen=True, extra="ignore")

    home: Path = Field(default_factory=_default_home)
    database_url: str = ""
    vault_url: str = ""
    blob_url: str = ""
    mlflow_url: str = ""
    device_lab_url: str = ""
    policy_dir: Path = PROJECT_ROOT / "policy"
    alert_urls: tuple[str, ...] = ()
    edge_host: str = "127.0.0.1"
    edge_port: int = Field(default=8710, ge=0, le=65535)
    subject_salt: SecretStr = SecretStr("")  # empty: one minted for this home, under `keys`; see `Store.subject_salt`
    owner: str = "team:speech"
    training_profile: str = "full"
    offline_keys: Path | None = None
    person_key: Path | None = None  # private key of whoever decides about releases
    training_processes: int = 1  # above one: `torchrun` on this machine

    @cached_property
    def root(self) -> Path:
        """The home folder, absolute."""
        return self.home.expanduser().resolve()

    @property
    def catalogue_url(self) -> str:
        return self.database_url or f"sqlite:///{self.root / 'catalogue.db'}"

    @property
    def vault_database_url(self) -> str:
        return self.vault_url or f"sqlite:///{self.root / 'vault.db'}"

    @property
    def blobs(self) -> str:
        return self.blob_url or str(self.root / "blobs")

    @property
    def device_lab(self) -> str:
        """Folder (or fsspec URL) into which a device lab's JSON reports come."""
        return self.device_lab_url or str(self.root / "device_lab")

    @property
    def mlflow_tracking_url(self) -> str:
        return self.mlflow_url or f"sqlite:///{self.root / 'mlflow' / 'mlflow.db'}"

    @property
    def keys(self) -> Path:
        return self.root / "keys"

    @property
    def offline_key_folder(self) -> Path:
        """Where the private keys of the update repository's root and targets are looked for: a medium that is there
        only while somebody signs, if the installation matters.
        """
        return self.offline_keys.expanduser().resolve() if self.offline_keys else self.keys / "offline"

    @property
    def dagster_home(self) -> Path:
        return self.root / "dagster"

    @property
    def dataset_repo(self) -> Path:
        """The DVC repository of this home; its `data/` is the versioned dataset folder."""
        return self.root / "dataset"

    @property
    def feast_repo(self) -> Path:
        return self.root / "feast"

    @property
    def tuf(self) -> Path:
        return self.root / "tuf"

    @property
    def models(self) -> Path:
        """Working folders of training, evaluation and packaging, one a model version."""
        return self.root / "models"

    @property
    def bundles(self) -> Path:
        """Signed bundles: one folder a model version, its signature `<model_version>.sig` beside it."""
        return self.root / "bundles"

    @property
    def reports(self) -> Path:
        return self.root / "reports"


def load_settings(home: Path | None = None) -> Settings:
    """Settings from the environment; `home` wins over `VOICE_PIPELINE_HOME`, and that over the home that `DAGSTER_HOME`
    lies in.
    """
    return Settings(home=home) if home else Settings()


def prepare_environment(settings: Settings) -> None:
    """Point Dagster at this home and switch every component's telemetry off.

    Entry points call this first, before they import Dagster, so that no run lands in a temporary folder.
    """
    settings.dagster_home.mkdir(parents=True, exist_ok=True)
    instance_file = settings.dagster_home / "dagster.yaml"
    source = PROJECT_ROOT / "dagster.yaml"
    if source.exists() and (not instance_file.exists() or instance_file.read_bytes() != source.read_bytes()):
        temporary = instance_file.with_suffix(".tmp")
        temporary.write_bytes(source.read_bytes())
        temporary.replace(instance_file)
    os.environ["DAGSTER_HOME"] = str(settings.dagster_home)
    os.environ["VOICE_PIPELINE_HOME"] = str(settings.root)
    os.environ["DVC_SITE_CACHE_DIR"] = str(settings.root / "dvc-site-cache")
    os.environ.update(QUIET)
