"""What a training run leaves on disk, so that a crash at any instant costs at most one epoch.

`state.pt` is everything needed to go on bit for bit (weights, averaged weights, optimiser, history); it is replaced in
one step after every epoch. The finished `checkpoint/` folder holds what recognisers and packaging read: `model.pt`,
`config.json`, `tokenizer.json`; its digest names the weights.
"""

from __future__ import annotations

import io
import json
import pickle
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from voice_pipeline.schema.canonical import digest, sha256_bytes
from voice_pipeline.speech.errors import TokenizerError
from voice_pipeline.speech.recogniser import CONFIG, TOKENIZER, WEIGHTS
from voice_pipeline.store.blobs import write_atomically
from voice_pipeline.training.errors import CheckpointMismatchError, DamagedCheckpointError

if TYPE_CHECKING:
    from voice_pipeline.schema.training import TrainingSpec
    from voice_pipeline.speech.shape import EncoderConfig
    from voice_pipeline.speech.tokenizer import CharTokenizer

STATE = "state.pt"
CHECKPOINT = "checkpoint"


@dataclass
class TrainingState:
    """Where a run stands after `epoch` finished epochs; `cuts` of the training utterances by clip id, once they were
    found.
    """

    epoch: int
    model: dict[str, Any]
    average: dict[str, Any]
    optimizer: dict[str, Any]
    best: dict[str, Any]
    best_wer: float
    best_epoch: int
    history: list[dict[str, float]] = field(default_factory=list)
    cuts: dict[str, tuple[int, ...]] | None = None


def save_state(workdir: Path, spec_digest: str, state: TrainingState) -> None:
    """Replace the run's state in one step."""
    write_atomically(workdir / STATE, _to_bytes({"spec_digest": spec_digest, **vars(state)}))


def load_state(workdir: Path, spec_digest: str) -> TrainingState | None:
    """The state to go on from, or None where there is none.

    Raises:
        DamagedCheckpointError: the file cannot be read.
        CheckpointMismatchError: it belongs to another spec.
    """
    path = workdir / STATE
    if not path.exists():
        return None
    import torch

    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        found = content.pop("spec_digest")
        state = TrainingState(**content)
    except (OSError, RuntimeError, EOFError, KeyError, TypeError, AttributeError, pickle.UnpicklingError) as error:
        raise DamagedCheckpointError(
            f"training state {path} cannot be read ({error}); delete it to start over"
        ) from error
    if found != spec_digest:
        raise CheckpointMismatchError(f"training state {path} belongs to spec {found[:12]}, not {spec_digest[:12]}")
    return state


def write_checkpoint(
    workdir: Path, spec: TrainingSpec, config: EncoderConfig, tokenizer: CharTokenizer, weights: dict[str, Any]
) -> Path:
    """Write the finished checkpoint folder; `config.json` comes last and makes it complete."""
    folder = workdir / CHECKPOINT
    write_atomically(folder / WEIGHTS, _to_bytes(weights))
    write_atomically(folder / TOKENIZER, tokenizer.to_json().encode())
    about = {"encoder": config.to_dict(), "spec_digest": spec.digest, "dataset_version": spec.dataset_version}
    write_atomically(folder / CONFIG, json.dumps(about, sort_keys=True, indent=1).encode())
    return folder


def checkpoint_digest(folder: Path) -> str:
    """sha256 over the digests of weights, configuration and tokenizer: equal for equal models.

    Raises:
        DamagedCheckpointError: a file is missing.
    """
    try:
        return digest({name: sha256_bytes((folder / name).read_bytes()) for name in (WEIGHTS, CONFIG, TOKENIZER)})
    except OSError as error:
        raise DamagedCheckpointError(f"checkpoint {folder} is incomplete ({error}); train the model again") from error


def stands_in_shape(folder: Path, config: EncoderConfig, tokenizer: CharTokenizer) -> bool:
    """Whether `folder` holds a finished model that a network of this shape and alphabet can start from."""
    from voice_pipeline.speech.tokenizer import CharTokenizer

    try:
        shape = json.loads((folder / CONFIG).read_text())["encoder"]
        return bool(
            shape == config.to_dict() and CharTokenizer.from_json((folder / TOKENIZER).read_text()) == tokenizer
        )
    except (OSError, ValueError, KeyError, TypeError, TokenizerError):
        return False


def is_complete(folder: Path, spec_digest: str) -> bool:
    """Whether `folder` holds the finished model of this spec."""
    try:
        about = json.loads((folder / CONFIG).read_text())
    except (OSError, ValueError):
        return False
    return bool(about.get("spec_digest") == spec_digest)


def _to_bytes(content: dict[str, Any]) -> bytes:
    """Equal content gives equal bytes: saved through memory, the archive carries no file name."""
    import torch

    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()
