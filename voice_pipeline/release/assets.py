"""Release assets. Materialising one asks the controller for a step; stored evidence decides, not the run."""

from dagster import AssetExecutionContext, MaterializeResult, MetadataValue, ResourceParam, asset

from voice_pipeline.partitions import model_version
from voice_pipeline.release.candidate import register_candidate
from voice_pipeline.release.controller import advance, next_canary
from voice_pipeline.release.policy import release_policy
from voice_pipeline.release.presentation import facts, story, verdict_table
from voice_pipeline.schema.release import ReleaseState
from voice_pipeline.store.releases import ReleaseView
from voice_pipeline.store.store import Store

TO_STATE_TAG = "voice_pipeline/to_state"
OWNERS = ["team:speech"]


def _result(view: ReleaseView) -> MaterializeResult:
    return MaterializeResult(metadata={**facts(view), "story": MetadataValue.md(story(view))})


@asset(
    partitions_def=model_version,
    group_name="release",
    owners=OWNERS,
    kinds={"python"},
    deps=["signed_bundle"],
    description="A published bundle registered as a release and judged by every gate of policy/release.yaml.",
)
def release_candidate(context: AssetExecutionContext, store: ResourceParam[Store]) -> MaterializeResult:
    view = register_candidate(store, release_policy(store), context.partition_key)
    verdicts = MetadataValue.md(verdict_table(store, view))
    return MaterializeResult(metadata={**facts(view), "verdicts": verdicts, "story": MetadataValue.md(story(view))})


@asset(
    partitions_def=model_version,
    group_name="release",
    owners=OWNERS,
    kinds={"python"},
    deps=["release_candidate"],
    description="The candidate runs silently beside the live model on a share of devices; nobody sees its answers.",
)
def shadow_release(context: AssetExecutionContext, store: ResourceParam[Store]) -> MaterializeResult:
    return _result(advance(store, release_policy(store), context.partition_key, ReleaseState.SHADOW))


@asset(
    partitions_def=model_version,
    group_name="release",
    owners=OWNERS,
    kinds={"python"},
    deps=["shadow_release"],
    description="The candidate answers on 5, 25, 50 % of devices: one stage a materialisation, each on its evidence.",
)
def canary_release(context: AssetExecutionContext, store: ResourceParam[Store]) -> MaterializeResult:
    to_state = next_canary(store, context.partition_key, context.run.tags.get(TO_STATE_TAG))
    return _result(advance(store, release_policy(store), context.partition_key, to_state))


@asset(
    partitions_def=model_version,
    group_name="release",
    owners=OWNERS,
    kinds={"python"},
    deps=["canary_release"],
    description="The model answers on every device; the one before stays published for instant reversal.",
)
def production_release(context: AssetExecutionContext, store: ResourceParam[Store]) -> MaterializeResult:
    return _result(advance(store, release_policy(store), context.partition_key, ReleaseState.PRODUCTION))
