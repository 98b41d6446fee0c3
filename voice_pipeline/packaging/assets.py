"""Assets of packaging: a trained model becomes a graph, an int8 graph, a signed and published bundle."""

from dagster import AssetExecutionContext, MaterializeResult, MetadataValue, ResourceParam, asset

from voice_pipeline.packaging.bundle import build_bundle, publish
from voice_pipeline.packaging.export import export, float_model_path
from voice_pipeline.packaging.quantise import int8_model_path, quantise
from voice_pipeline.partitions import model_version
from voice_pipeline.schema.bundle import BundleManifest
from voice_pipeline.store.store import Store
from voice_pipeline.trust import download_size


@asset(
    group_name="packaging",
    partitions_def=model_version,
    deps=["acoustic_model"],
    owners=["team:speech"],
    kinds={"onnx"},
    description="One float ONNX graph, waveform in and log-probabilities out, equal to the checkpoint at any length.",
)
def onnx_model(context: AssetExecutionContext, store: ResourceParam[Store]) -> MaterializeResult:
    record = export(store, context.partition_key)
    path = MetadataValue.path(float_model_path(store, context.partition_key))
    return MaterializeResult(metadata={**record.model_dump(mode="json"), "path": path})


@asset(
    group_name="packaging",
    partitions_def=model_version,
    deps=["onnx_model"],
    owners=["team:speech"],
    kinds={"onnx"},
    description="The int8 graph chosen by its word error rate on development clips from several candidates.",
)
def quantized_model(context: AssetExecutionContext, store: ResourceParam[Store]) -> MaterializeResult:
    record = quantise(store, context.partition_key)
    path = MetadataValue.path(int8_model_path(store, context.partition_key))
    return MaterializeResult(metadata={**record.model_dump(mode="json"), "path": path})


@asset(
    group_name="packaging",
    partitions_def=model_version,
    deps=["quantized_model", "confidence_model", "model_card"],
    owners=["team:speech"],
    kinds={"onnx", "tuf"},
    description="Everything a device needs in one folder: signed, verified, and offered in the update repository.",
)
def signed_bundle(context: AssetExecutionContext, store: ResourceParam[Store]) -> MaterializeResult:
    manifest = build_bundle(store, context.partition_key)
    publication = publish(store, context.partition_key)
    folder = store.settings.bundles / context.partition_key
    return MaterializeResult(
        metadata={
            "bundle_digest": manifest.digest,
            "published": publication.in_force,
            "waits_for": publication.waits_for,
            "wer_float": manifest.wer_float,
            "wer_int8": manifest.wer_int8,
            "quantisation": manifest.quantisation,
            "archive_bytes": publication.archive_bytes,
            "installed_bytes": download_size(folder),
            **_measured(manifest),
            "golden": {vector.path: vector.text for vector in manifest.golden},
            "path": MetadataValue.path(folder),
        }
    )


def _measured(manifest: BundleManifest) -> dict[str, float]:
    """Figures of parity and footprint, by name."""
    records = [record for record in (manifest.parity, manifest.footprint) if record is not None]
    return {name: value for record in records for name, value in record if isinstance(value, int | float)}
