"""The visible half of the gates: the ledger's verdicts as asset checks. The controller enforces them either way."""

from dagster import (
    AssetCheckExecutionContext,
    AssetCheckResult,
    AssetChecksDefinition,
    ResourceParam,
    asset_check,
)

from voice_pipeline.release.gates.evidence import GATES
from voice_pipeline.release.policy import release_policy
from voice_pipeline.release.story.presentation import judged_gate, ledger_state, live_state
from voice_pipeline.store.store import Store


def _gate_check(gate: str) -> AssetChecksDefinition:
    @asset_check(name=gate, asset="release_candidate", blocking=True, description=f"Stored verdict of gate {gate}.")
    def check(context: AssetCheckExecutionContext, store: ResourceParam[Store]) -> AssetCheckResult:
        judged = judged_gate(store, release_policy(store), context.partition_key, gate)
        return AssetCheckResult(passed=judged.passed, metadata=judged.metadata)

    return check


gate_checks = [_gate_check(gate) for gate in GATES]


@asset_check(asset="production_release", blocking=True, description="At most one release is live, by the ledger.")
def one_live_model(store: ResourceParam[Store]) -> AssetCheckResult:
    passed, metadata = live_state(store)
    return AssetCheckResult(passed=passed, metadata=metadata)


@asset_check(asset="production_release", blocking=True, description="The ledger's hash chain verifies.")
def ledger_verifies(store: ResourceParam[Store]) -> AssetCheckResult:
    passed, metadata = ledger_state(store)
    return AssetCheckResult(passed=passed, metadata=metadata)
