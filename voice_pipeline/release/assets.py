"""Release assets. Materialising one asks the controller for a step; stored evidence decides, not the run."""

from dagster import AssetExecutionContext, MaterializeResult, MetadataValue, ResourceParam, asset

from voice_pipeline.partitions import model_version
from voice_pipeline.release.candidate import register_candidate
from voice_pipeline.release.controller import advance, next_canary
from voice_pipeline.release.policy import release_policy, standing_policy
from voice_pipeline.release.story.presentation import Markdown, page, verdict_table
from voice_pipeline.schema.release import ReleaseState
from voice_pipeline.store.releases import ReleaseView
from voice_pipeline.store.store import Store

TO_STATE_TAG = "voice_pipeline/to_state"
OWNERS = ["team:speech"]


Metadata = dict[str, MetadataValue[str] | str | int | float]


def page_metadata(store: Store, release_id: str, up_to: int) -> Metadata:
    """The page of a release as ledger line `up_to` left it, as the UI shows it."""
    told = page(store, standing_policy(store).policy, release_id, up_to)
    return {name: MetadataValue.md(v) if isinstance(v, Markdown) else v for name, v in told.items()}


def _result(store: Store, view: ReleaseView) -> MaterializeResult:
    return MaterializeResult(metadata=page_metadata(store, view.release_id, view.transitions[-1].seq))


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
    metadata = page_metadata(store, view.release_id, view.transitions[-1].seq)
    return MaterializeResult(metadata={**metadata, "verdicts": verdicts})


@asset(
    partitions_def=model_version,
    group_name="release",
    owners=OWNERS,
    kinds={"python"},
    deps=["release_candidate"],
    description="The candidate runs silently beside the live model on a share of devices; nobody sees its answers.",
)
def shadow_release(context: AssetExecutionContext, store: ResourceParam[Store]) -> MaterializeResult:
    return _result(store, advance(store, release_policy(store), context.partition_key, ReleaseState.SHADOW))


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
    return _result(store, advance(store, release_policy(store), context.partition_key, to_state))


@asset(
    partitions_def=model_version,
    group_name="release",
    owners=OWNERS,
    kinds={"python"},
    deps=["canary_release"],
    description="The model answers on every device; the one before stays published for instant reversal.",
)
def production_release(context: AssetExecutionContext, store: ResourceParam[Store]) -> MaterializeResult:
    return _result(store, advance(store, release_policy(store), context.partition_key, ReleaseState.PRODUCTION))
