"""From an approved cause to a training spec and its model version.

Promises: the same spec always gives the same model version, whoever asks and however often; decision and plan are
written in one transaction, so a crash leaves both or neither; a plan is never changed once written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import insert, select

from voice_pipeline.schema.ids import model_version as mint_model_version
from voice_pipeline.schema.policy_file import load_policy
from voice_pipeline.schema.retrain_policy import (
    Profile,
    RetrainCause,
    RetrainDecision,
    RetrainPolicy,
    RetrainTrigger,
)
from voice_pipeline.schema.training import Hyperparameters, TrainingSpec
from voice_pipeline.speech.shape import preset
from voice_pipeline.speech.tokenizer import CharTokenizer
from voice_pipeline.store.database import upsert
from voice_pipeline.store.releases import live
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import dataset_versions, models, retrain_decisions
from voice_pipeline.training.checkpoints import CHECKPOINT, stands_in_shape
from voice_pipeline.training.decisions import REQUEST, decide
from voice_pipeline.training.plan_errors import NoDatasetError, UnknownPlanError, UnknownProfileError
from voice_pipeline.training.provenance import code_commit, lock_digest, noise_digest, noise_ids

PLANNED, TRAINED = "planned", "trained"


@dataclass(frozen=True)
class Plan:
    """One planned model: its spec, why it was asked for, and how far it is (`planned` or `trained`)."""

    model_version: str
    spec: TrainingSpec
    cause: RetrainCause
    decision_id: str
    state: str


def read_policy(store: Store) -> RetrainPolicy:
    """`policy/retrain.yaml` of this home. Raises `PolicyError`."""
    return load_policy(store.settings.policy_dir / "retrain.yaml", RetrainPolicy)


def request_retrain(store: Store, cause: str, actor: str) -> str:
    """Ask for a new model now, by hand; returns the decision id. Durable once this returns.

    Each request has a number that becomes part of the seed: it yields a new model even on data that was trained on.
    """
    with store.database.write() as connection:
        number = len(store.ledger.lines(kind=REQUEST)) + 1  # the write lock is held: no other request comes between
        request = RetrainCause(trigger=RetrainTrigger.MANUAL, actor=actor, reason=cause, number=number)
        store.ledger.append(
            REQUEST, request.digest, request.model_dump(mode="json"), actor=actor, connection=connection
        )
    return request.digest


def act(store: Store, policy: RetrainPolicy) -> list[Plan]:
    """Decide, record every decision, and plan what was approved; returns all plans that are still to be trained."""
    for decision in decide(store, policy):
        if decision.approved:
            plan(store, policy, decision)
        else:
            _record_refusal(store, decision)
    return untrained(store)


def plan(store: Store, policy: RetrainPolicy, decision: RetrainDecision) -> Plan:
    """The plan of an approved decision, made now or found: idempotent by the digest of its spec.

    Raises:
        NoDatasetError: there is nothing to train on.
        UnknownProfileError: the settings name a profile that the policy does not have.
    """
    spec = build_spec(store, policy, decision.cause)
    with store.database.write() as connection:
        found = connection.execute(select(models).where(models.c.spec_digest == spec.digest)).mappings().first()
        version = found["model_version"] if found else mint_model_version(store.now().date(), spec.digest)
        if found is None:
            connection.execute(
                insert(models).values(
                    model_version=version,
                    spec_digest=spec.digest,
                    spec=spec.model_dump(mode="json"),
                    dataset_version=spec.dataset_version,
                    parent_model_version=spec.parent_model_version,
                    decision_id=decision.decision_id,
                    state=PLANNED,
                    cause=decision.cause.model_dump(mode="json"),
                    planned_at=store.now().isoformat(),
                )
            )
        upsert(connection, retrain_decisions, _decision_row(decision, version))
        for waiting in _incident_decisions(decision):
            upsert(connection, retrain_decisions, _decision_row(waiting, version))
    return find_plan(store, version)


def build_spec(store: Store, policy: RetrainPolicy, cause: RetrainCause) -> TrainingSpec:
    """Everything that decides the weights.

    A first model starts from nothing, a later one from the live model if that has the shape that the profile trains
    by the code of today.
    """
    dataset_version = cause.dataset_version or _newest_dataset_version(store)
    profile = profile_of(store, policy)
    alphabet = _alphabet(store, dataset_version)
    parent = _parent(store, profile.warm_start, alphabet)
    return TrainingSpec(
        dataset_version=dataset_version,
        feature_schema_version=policy.feature_schema_version,
        code_commit=code_commit(),
        lock_digest=lock_digest(),
        hyperparameters=profile.warm_start if parent else profile.scratch,
        seed=policy.seed + cause.number,
        parent_model_version=parent,
        alphabet=alphabet,
        noise_digest=noise_digest(noise_ids(store)),
        decoding=profile.decoding,
    )


def _alphabet(store: Store, dataset_version: str) -> str:
    """The characters that the texts of a dataset version are written in, kept with its validation."""
    found = store.database.scalar(
        select(dataset_versions.c.validation).where(dataset_versions.c.dataset_version == dataset_version)
    )
    return str((found or {}).get("alphabet") or TrainingSpec.model_fields["alphabet"].default)


def _parent(store: Store, warm_start: Hyperparameters, alphabet: str) -> str | None:
    """The live model, if its checkpoint has this alphabet and the encoder shape that `warm_start` builds now."""
    champion = live(store)
    if champion is None:
        return None
    tokenizer = CharTokenizer(alphabet)
    config = preset(warm_start.preset.value, tokenizer.size)
    folder = store.settings.models / champion.model_version / CHECKPOINT
    return champion.model_version if stands_in_shape(folder, config, tokenizer) else None


def profile_of(store: Store, policy: RetrainPolicy) -> Profile:
    """The profile that the settings choose. Raises `UnknownProfileError`."""
    name = store.settings.training_profile
    if name not in policy.profiles:
        raise UnknownProfileError(
            f"training profile {name!r} is not in policy/retrain.yaml; set VOICE_PIPELINE_TRAINING_PROFILE to one of "
            f"{sorted(policy.profiles)}"
        )
    return policy.profiles[name]


def find_plan(store: Store, model_version: str) -> Plan:
    """Raises:
    UnknownPlanError: no such model was planned, or its stored spec is not what its name was made from.
    """
    row = store.database.row(select(models).where(models.c.model_version == model_version))
    if row is None:
        raise UnknownPlanError(f"model {model_version} was never planned; ask for a retrain and let the sensor plan it")
    spec = TrainingSpec.model_validate(row["spec"])
    if spec.digest != row["spec_digest"] or not model_version.endswith(spec.digest[:8]):
        raise UnknownPlanError(f"the stored spec of {model_version} was changed after it was planned; plan it anew")
    cause = RetrainCause.model_validate(row["cause"])
    return Plan(model_version, spec, cause, row["decision_id"] or cause.digest, row["state"])


def untrained(store: Store) -> list[Plan]:
    """Plans that have not become a model yet, oldest first."""
    rows = store.database.rows(
        select(models.c.model_version).where(models.c.state == PLANNED).order_by(models.c.planned_at)
    )
    return [find_plan(store, row["model_version"]) for row in rows]


def _newest_dataset_version(store: Store) -> str:
    newest = store.database.scalar(
        select(dataset_versions.c.dataset_version).order_by(dataset_versions.c.sequence.desc())
    )
    if newest is None:
        raise NoDatasetError("there is no dataset version to train on; close a batch and materialise dataset_snapshot")
    return str(newest)


def _incident_decisions(decision: RetrainDecision) -> Sequence[RetrainDecision]:
    """The incidents that waited for this dataset version are answered by the same model."""
    if decision.cause.trigger is not RetrainTrigger.DATASET_VERSION:
        return ()
    return [
        decision.model_copy(
            update={
                "cause": RetrainCause(trigger=RetrainTrigger.INCIDENT, incidents=(incident,)),
                "reason": f"joined dataset {decision.cause.dataset_version}",
            }
        )
        for incident in decision.cause.incidents
    ]


def _record_refusal(store: Store, decision: RetrainDecision) -> None:
    """Keep the newest reason of a refusal; a tick that changes nothing writes nothing."""
    table = retrain_decisions
    found = store.database.row(select(table).where(table.c.decision_id == decision.decision_id))
    if found is not None and (found["approved"] or found["reason"] == decision.reason):
        return
    with store.database.write() as connection:
        upsert(connection, table, _decision_row(decision, None))


def _decision_row(decision: RetrainDecision, model_version: str | None) -> dict[str, object]:
    return {
        "decision_id": decision.decision_id,
        "cause": decision.cause.model_dump(mode="json"),
        "approved": decision.approved,
        "reason": decision.reason,
        "model_version": model_version,
        "at": decision.at.isoformat(),
    }
