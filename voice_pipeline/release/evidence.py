"""What is stored about a bundle: its catalogue row, its files as they lie on disk now, and its gates' verdicts.

Verdicts are bound to the bundle digest and the policy digest. Those that are missing, stale, made under another policy
or not PASS all count as failure: `gate_problems` says which.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import select

from voice_pipeline.evaluation.device_lab import lab_findings
from voice_pipeline.release.errors import MissingEvidenceError
from voice_pipeline.schema.bundle import BundleManifest
from voice_pipeline.schema.publication import PUBLISHED, SIGNING_PUBLIC_KEY
from voice_pipeline.schema.release import Outcome, Verdict
from voice_pipeline.schema.release_policy import ReleasePolicy
from voice_pipeline.store.database import upsert
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import bundles, verdicts
from voice_pipeline.trust import TrustError, download_size, verify_bundle

VERDICT = "verdict"
GATES: tuple[str, ...] = (
    "bundle_integrity",
    "noisy_wer_improvement",
    "slice_margins",
    "int8_delta",
    "latency",
    "size",
    "download",
    "coverage",
)
"""Every gate; a verdict set is complete only with all of them."""

COMPARING = ("noisy_wer_improvement", "slice_margins")
OTHER_CHAMPION = "gates were judged against another live model"


@dataclass(frozen=True)
class StoredBundle:
    """A bundle as the catalogue has it. `size` in bytes."""

    bundle_digest: str
    model_version: str
    folder: Path
    manifest: BundleManifest
    size: int
    published_at: str | None


def find_bundle(store: Store, model_version: str) -> StoredBundle | None:
    """The catalogued bundle of a model, or None."""
    row = store.database.row(select(bundles).where(bundles.c.model_version == model_version))
    if row is None:
        return None
    return StoredBundle(
        bundle_digest=row["bundle_digest"],
        model_version=row["model_version"],
        folder=Path(row["uri"]),
        manifest=BundleManifest.model_validate(row["manifest"]),
        size=row["size"],
        published_at=row["published_at"],
    )


def published_bundle(store: Store, model_version: str) -> StoredBundle:
    """Raises:
    MissingEvidenceError: the model has no bundle, or it is not published.
    """
    bundle = find_bundle(store, model_version)
    if bundle is None:
        raise MissingEvidenceError(f"model {model_version} has no bundle; materialise signed_bundle first")
    if bundle.published_at is None:
        raise MissingEvidenceError(f"bundle of {model_version} is not published; materialise signed_bundle again")
    return bundle


def fetched_bytes(store: Store, bundle: StoredBundle) -> int:
    """Bytes that a device fetches: of the archive as it was published, by the ledger; of all files together where it
    was published before archives were compressed.
    """
    lines = store.ledger.lines(kind=PUBLISHED, subject=bundle.bundle_digest)
    told = [line.payload["archive_bytes"] for line in lines if "archive_bytes" in line.payload]
    return int(told[-1]) if told else download_size(bundle.folder)


def integrity_problem(store: Store, model_version: str, bundle_digest: str) -> str | None:
    """Why the bundle on disk is not, byte for byte and by signature, the one with `bundle_digest`; None if it is."""
    bundle = find_bundle(store, model_version)
    if bundle is None or bundle.published_at is None:
        return f"bundle of {model_version} is not in the catalogue as published"
    key = store.settings.keys / SIGNING_PUBLIC_KEY
    try:
        verify_bundle(bundle.folder, key.read_bytes(), bundle_digest)
    except TrustError as error:
        return str(error)
    except OSError:
        return f"the key {SIGNING_PUBLIC_KEY} cannot be read; restore it from a backup"
    return None


def store_verdicts(store: Store, model_version: str, found: Sequence[Verdict]) -> None:
    """Keep verdicts in the table (the newest counts) and in the ledger (all stay), in one transaction."""
    with store.database.write() as connection:
        for verdict in found:
            plain: dict[str, Any] = verdict.model_dump(mode="json")
            row = {
                "bundle_digest": verdict.bundle_digest,
                "policy_digest": verdict.policy_digest,
                "gate": verdict.gate,
                "verdict": plain,
                "at": plain["at"],
            }
            upsert(connection, verdicts, row)
            payload = {**plain, "model_version": model_version}
            store.ledger.append(VERDICT, verdict.bundle_digest, payload, "release-gates", connection=connection)


def stored_verdicts(store: Store, bundle_digest: str, policy_digest: str) -> dict[str, Verdict]:
    """The newest verdict of each gate about exactly this bundle under exactly this policy.

    Read from the hash-chained ledger, not from the table beside it, which anyone with the database could edit.
    """
    lines = store.ledger.lines(kind=VERDICT, subject=bundle_digest)
    found = [Verdict.model_validate({k: line.payload[k] for k in Verdict.model_fields}) for line in lines]
    return {verdict.gate: verdict for verdict in found if verdict.policy_digest == policy_digest}


def gate_problems(store: Store, policy: ReleasePolicy, bundle_digest: str, champion: str) -> list[str]:
    """Why the stored verdicts do not carry this bundle; empty when they do.

    Args:
        champion: bundle digest of the live model, "" where none is live; verdicts against another one are stale.
    """
    found = stored_verdicts(store, bundle_digest, policy.digest)
    oldest = store.now() - timedelta(days=policy.gates.max_age_days)
    problems = [_verdict_problem(gate, found.get(gate), bundle_digest, oldest) for gate in GATES]
    against = {champion_of(found[gate]) for gate in COMPARING if gate in found}
    if against - {champion}:
        problems.append(OTHER_CHAMPION)
    problems.append(lab_problem(store, policy, bundle_digest))
    return [problem for problem in problems if problem]


def lab_problem(store: Store, policy: ReleasePolicy, bundle_digest: str) -> str:
    """Empty, or which device the lab found too slow: its reports may come after the latency gate was judged."""
    limit = policy.gates.latency.max_p95_ms
    slow = [
        f"{report.device_model} ({report.device_class}) p95 {report.p95_ms:.1f} ms"
        for report in lab_findings(store, bundle_digest).reports
        if report.p95_ms > limit
    ]
    return f"the device lab measured more than {limit:g} ms: {'; '.join(slow)}" if slow else ""


def champion_of(verdict: Verdict) -> str:
    """Bundle digest that a comparing verdict was made against ("" = no live model), from its evidence URI."""
    return verdict.evidence.partition("champion=")[2].partition("&")[0]


def _verdict_problem(gate: str, verdict: Verdict | None, bundle_digest: str, oldest: datetime) -> str:
    if verdict is None:
        return f"gate {gate} has no verdict for this bundle under this policy"
    if verdict.bundle_digest != bundle_digest:
        return f"gate {gate} judged another bundle"
    if verdict.at < oldest:
        return f"gate {gate} was judged at {verdict.at:%Y-%m-%d}, too long ago"
    if verdict.outcome is not Outcome.PASS and not asks_for_sign_off(verdict):
        return f"gate {gate} is {verdict.outcome}: {verdict.detail}"
    return ""


def asks_for_sign_off(verdict: Verdict) -> bool:
    """Coverage is the one gate that a person may settle: INCONCLUSIVE there means 'ask'."""
    return verdict.gate == "coverage" and verdict.outcome is Outcome.INCONCLUSIVE
