"""What is stored about a bundle: its catalogue row, its files as they lie on disk now, and its gates' verdicts.

Verdicts are bound to the bundle digest and the policy digest. Those that are missing, stale, made under another policy
or not PASS all count as failure: `gate_problems` says which. Only a verdict that was reached can be overridden.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import select

from voice_pipeline.evaluation.device_lab import lab_findings
from voice_pipeline.release.errors import MissingEvidenceError
from voice_pipeline.release.people.decisions import SignedDecision
from voice_pipeline.release.people.overrides import SETTLED, overrides_of, verdict_in
from voice_pipeline.schema.bundle import BundleManifest
from voice_pipeline.schema.evaluation_policy import load_evaluation_policy
from voice_pipeline.schema.policy_file import PolicyError
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
    "wake_words",
    "coverage",
)
"""Every gate; a verdict set is complete only with all of them."""

COMPARING = ("noisy_wer_improvement", "slice_margins")
ASKING = ("slice_margins", "wake_words", "coverage")
"""Gates that a person may settle: INCONCLUSIVE there means 'ask'."""
OTHER_CHAMPION = "gates were judged against another live model"
OTHER_EVALUATION = "gate wake_words was judged under another policy/evaluation.yaml"


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
    try:
        public_keys = (store.settings.keys / SIGNING_PUBLIC_KEY).read_bytes()
    except OSError as error:
        return f"the key {SIGNING_PUBLIC_KEY} cannot be read ({error.strerror}); restore it from a backup"
    try:
        verify_bundle(bundle.folder, public_keys, bundle_digest)
    except TrustError as error:
        return str(error)
    except OSError as error:
        name = Path(error.filename).name if error.filename else "a file"
        return (
            f"bundle of {model_version}: {name} cannot be read ({error.strerror}); let this user read it, or restore "
            "the bundle from a backup"
        )
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
    found = [verdict for verdict in map(verdict_in, lines) if verdict is not None]
    return {verdict.gate: verdict for verdict in found if verdict.policy_digest == policy_digest}


def gate_problems(store: Store, policy: ReleasePolicy, bundle_digest: str, champion: str) -> list[str]:
    """Why the stored verdicts do not carry this bundle; empty when they do.

    Args:
        champion: bundle digest of the live model, "" where none is live; verdicts against another one are stale.
    """
    found = stored_verdicts(store, bundle_digest, policy.digest)
    oldest = store.now() - timedelta(days=policy.gates.max_age_days)
    overridden = overridden_gates(store, policy, bundle_digest)
    problems = [_verdict_problem(gate, found.get(gate), bundle_digest, oldest, overridden) for gate in GATES]
    against = {champion_of(found[gate]) for gate in COMPARING if gate in found}
    if against - {champion}:
        problems.append(OTHER_CHAMPION)
    problems.append(_evaluation_problem(store, found.get("wake_words")))
    problems.append(lab_problem(store, policy, bundle_digest, overridden.get("latency")))
    return [problem for problem in problems if problem]


def overridden_gates(store: Store, policy: ReleasePolicy, bundle_digest: str) -> dict[str, SignedDecision]:
    """The override in force of each gate that this bundle failed under this policy."""
    return overrides_of(store, policy, bundle_digest, store.ledger.lines(kind=VERDICT, subject=bundle_digest))


def settled(verdict: Verdict, overridden: Mapping[str, SignedDecision]) -> bool:
    """Whether a verdict keeps nothing back: it passed, a person signs off besides, or a person overrode it."""
    if verdict.gate in overridden and verdict.outcome in SETTLED:
        return True
    return verdict.outcome is Outcome.PASS or asks_for_sign_off(verdict)


def lab_problem(store: Store, policy: ReleasePolicy, bundle_digest: str, override: SignedDecision | None) -> str:
    """Empty, or which device the lab found too slow: its reports may come after the latency gate was judged. An
    override of that gate settles those that were measured before it was signed.
    """
    limit = policy.gates.latency.max_p95_ms
    slow = [
        f"{report.device_model} ({report.device_class}) p95 {report.p95_ms:.1f} ms"
        for report in lab_findings(store, bundle_digest).reports
        if report.p95_ms > limit and (override is None or report.measured_at > override.recorded_at)
    ]
    return f"the device lab measured more than {limit:g} ms: {'; '.join(slow)}" if slow else ""


def _evaluation_problem(store: Store, verdict: Verdict | None) -> str:
    """Empty, or why the wake words that were judged may not be those of `policy/evaluation.yaml` now."""
    if verdict is None:
        return ""
    try:
        now = load_evaluation_policy(store.settings.policy_dir).digest
    except PolicyError as error:
        return str(error)
    return "" if verdict.evidence.partition("&policy=")[2] == now else OTHER_EVALUATION


def verdict_uri(suite_digest: str, champion: str, evaluation_policy: str) -> str:
    """What verdicts were made from: digests of suite, live bundle ("" = none) and `policy/evaluation.yaml`."""
    return f"evaluation:{suite_digest}?champion={champion}&policy={evaluation_policy}"


def champion_of(verdict: Verdict) -> str:
    """Bundle digest that a comparing verdict was made against ("" = no live model), from its evidence URI."""
    return verdict.evidence.partition("champion=")[2].partition("&")[0]


def _verdict_problem(
    gate: str,
    verdict: Verdict | None,
    bundle_digest: str,
    oldest: datetime,
    overridden: Mapping[str, SignedDecision],
) -> str:
    if verdict is None:
        return f"gate {gate} has no verdict for this bundle under this policy"
    if verdict.bundle_digest != bundle_digest:
        return f"gate {gate} judged another bundle"
    if verdict.at < oldest:
        return f"gate {gate} was judged at {verdict.at:%Y-%m-%d}, too long ago"
    if not settled(verdict, overridden):
        return f"gate {gate} is {verdict.outcome}: {verdict.detail}"
    return ""


def asks_for_sign_off(verdict: Verdict) -> bool:
    """Whether a person may settle it: a gate of `ASKING` that had too little to be certain."""
    return verdict.gate in ASKING and verdict.outcome is Outcome.INCONCLUSIVE
