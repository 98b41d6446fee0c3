"""MLflow's model registry as a mirror of the ledger: one version a model, aliases where the ledger says.

`champion` is the model in production, `challenger` the newest release on its way, `shadow` the model that devices run
silently beside the live one. Promises: an alias is set only after the ledger says so, and is removed, or put back after
somebody moved it by hand, at the next look; an MLflow that is down or read-only stops no model and no release: it is
told as an alert, once a day. https://mlflow.org/docs/latest/ml/model-registry/
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import select

from voice_pipeline.schema.canonical import sha256_bytes
from voice_pipeline.schema.release import ReleaseState
from voice_pipeline.store.alerts import raise_alert
from voice_pipeline.store.releases import in_progress, live, release_views
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import bundles
from voice_pipeline.training.tracking import TAG, client_of, run_of

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)

REGISTERED_MODEL = "dictation"
CHAMPION, CHALLENGER, SHADOW = "champion", "challenger", "shadow"
BUNDLE = "bundle_digest"
CARD = "card_sha256"
MIRROR_HOURS = 3
"""How often the aliases are set again where the ledger did not move: what people changed by hand does not stay."""


@dataclass(frozen=True)
class Standing:
    """Which model is live, which is on its way, which runs in shadow, by the ledger; None where there is none.

    `since` is the ledger line that last began or ended a release: the same models at another time are another standing.
    """

    champion: str | None
    challenger: str | None
    shadow: str | None
    since: int

    @property
    def aliases(self) -> dict[str, str | None]:
        """Alias → model version."""
        return {CHAMPION: self.champion, CHALLENGER: self.challenger, SHADOW: self.shadow}


def standing(store: Store) -> Standing:
    """What the ledger says now. A release that was held in shadow still runs there."""
    champion = live(store)
    coming = in_progress(store)
    silent = [view.model_version for view in coming if view.stage is ReleaseState.SHADOW]
    turns = [view.transitions[-1].seq for view in release_views(store) if view.ended or view is champion]
    return Standing(
        champion=champion.model_version if champion else None,
        challenger=coming[-1].model_version if coming else None,
        shadow=silent[-1] if silent else None,
        since=max([*turns, *(view.transitions[0].seq for view in coming)], default=0),
    )


def register(store: Store, model_version: str, card: Path) -> str:
    """Put the model and its card into the registry; returns MLflow's version number. A repeat registers nothing new."""
    from mlflow.exceptions import MlflowException

    client = client_of(store)
    run_id = run_of(store, client, model_version)
    client.log_artifact(run_id, str(card))
    try:
        client.get_registered_model(REGISTERED_MODEL)
    except MlflowException:
        client.create_registered_model(
            REGISTERED_MODEL, description="On-device dictation, one version a trained model."
        )
    found = registered(client, model_version)
    if found is None:
        source = client.get_run(run_id).info.artifact_uri
        created = client.create_model_version(
            REGISTERED_MODEL, source=source, run_id=run_id, tags={TAG: model_version}, description=f"See {card.name}."
        )
        found = str(created.version)
    client.set_tag(run_id, CARD, sha256_bytes(card.read_bytes()))
    mirror_aliases(store)
    return found


def mirror_aliases(store: Store) -> Standing:
    """Make the aliases what the ledger says, however they were; a ledger that moves on meanwhile is followed."""
    client = client_of(store)
    while True:
        now = standing(store)
        for alias, model_version in now.aliases.items():
            _mirror(client, alias, registered(client, model_version) if model_version else None)
        if standing(store) == now:
            return now


def untold_cards(store: Store, cards: Sequence[Path]) -> list[Path]:
    """Those model cards (`<models>/<model_version>/model_card.md`) that MLflow has not, or has as they were before."""
    client = client_of(store)
    return [card for card in cards if not _has_card(store, client, card)]


def _has_card(store: Store, client: MlflowClient, card: Path) -> bool:
    if registered(client, card.parent.name) is None:
        return False
    tags = client.get_run(run_of(store, client, card.parent.name)).data.tags
    return tags.get(CARD) == sha256_bytes(card.read_bytes())


def mirror_bundles(store: Store) -> list[str]:
    """Log the signed bundle of every registered model whose run does not hold it yet; returns their model versions."""
    client = client_of(store)
    logged = []
    for row in store.database.rows(select(bundles).order_by(bundles.c.created_at)):
        folder = store.settings.bundles / row["model_version"]
        if registered(client, row["model_version"]) is None or not folder.is_dir():
            continue
        run_id = run_of(store, client, row["model_version"])
        if client.get_run(run_id).data.tags.get(BUNDLE) != row["bundle_digest"]:
            client.log_artifacts(run_id, str(folder), "bundle")
            client.set_tag(run_id, BUNDLE, row["bundle_digest"])
            logged.append(row["model_version"])
    return logged


@contextmanager
def told(store: Store, what: str) -> Iterator[None]:
    """Whatever breaks while MLflow is told of `what` is an alert, not an error: it is a mirror and decides nothing."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - MLflow, its database, its server, its artifact store: all raise their own
        logger.warning("MLflow was not told of %s: %s", what, error)
        raise_alert(
            store,
            {"mlflow": what, "day": store.now().date().isoformat()},
            "MLflow was not told",
            f"{what}: {type(error).__name__}: {str(error)[:300]}; it follows later, releases go on without it",
        )


def registered(client: MlflowClient, model_version: str) -> str | None:
    """MLflow's version number of a model, or None."""
    versions = client.search_model_versions(f"name = '{REGISTERED_MODEL}' and tags.{TAG} = '{model_version}'")
    return str(versions[0].version) if versions else None


def _mirror(client: MlflowClient, alias: str, version: str | None) -> None:
    from mlflow.exceptions import MlflowException

    if version is not None:
        client.set_registered_model_alias(REGISTERED_MODEL, alias, version)
        return
    try:
        client.delete_registered_model_alias(REGISTERED_MODEL, alias)
    except MlflowException as error:  # nothing is registered yet: nothing to remove
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
