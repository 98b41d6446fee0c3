"""The visible half of the gates: the ledger's verdicts as asset checks. The controller enforces them either way."""

from collections.abc import Sequence

from dagster import (
    AssetCheckExecutionContext,
    AssetCheckResult,
    AssetCheckSeverity,
    AssetCheckSpec,
    ResourceParam,
    asset_check,
    multi_asset_check,
)

from voice_pipeline.partitions import model_version
from voice_pipeline.release.evidence import GATES
from voice_pipeline.release.policy import release_policy
from voice_pipeline.release.presentation import judged_gates, ledger_state, live_state
from voice_pipeline.store.store import Store

_GATE_SPECS = [
    AssetCheckSpec(name=gate, asset="release_candidate", blocking=True, partitions_def=model_version) for gate in GATES
]


@multi_asset_check(specs=_GATE_SPECS, description="Every gate's stored verdict; a missing one fails.")
def release_gates(context: AssetCheckExecutionContext, store: ResourceParam[Store]) -> Sequence[AssetCheckResult]:
    judged = judged_gates(store, release_policy(store), context.partition_key)
    return [
        AssetCheckResult(
            asset_key="release_candidate",
            check_name=gate.gate,
            passed=gate.passed,
            severity=AssetCheckSeverity.ERROR,
            metadata=gate.metadata,
        )
        for gate in judged
    ]


@asset_check(asset="production_release", blocking=True, description="At most one release is live, by the ledger.")
def one_live_model(store: ResourceParam[Store]) -> AssetCheckResult:
    passed, metadata = live_state(store)
    return AssetCheckResult(passed=passed, metadata=metadata)


@asset_check(asset="production_release", blocking=True, description="The ledger's hash chain verifies.")
def ledger_verifies(store: ResourceParam[Store]) -> AssetCheckResult:
    passed, metadata = ledger_state(store)
    return AssetCheckResult(passed=passed, metadata=metadata)
