"""`policy/inference.yaml` as typed records: where dictations of which devices are turned into text."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from voice_pipeline.schema.base import Record
from voice_pipeline.schema.clip import DeviceClass
from voice_pipeline.schema.inference import InferenceMode
from voice_pipeline.schema.policy_file import load_policy

FILE_NAME = "inference.yaml"

Notice = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,39}$")]


class InferencePolicy(Record):
    """Attributes:
    remote_allowed: whether the edge transcribes at all; off, every mode is `local`, whatever stands beside it: one line
        ends remote processing.
    notice_versions: privacy notices under which a speaker's consent to remote processing counts.
    default: mode of devices that nothing else speaks of.
    by_device_class: mode of whole classes.
    where_no_model_fits: mode of devices whose app is too old for every released model.
    """

    version: Literal[1]
    remote_allowed: bool = False
    notice_versions: frozenset[Notice] = frozenset()
    default: InferenceMode = InferenceMode.LOCAL
    by_device_class: dict[DeviceClass, InferenceMode] = Field(default_factory=dict)
    where_no_model_fits: InferenceMode = InferenceMode.LOCAL

    @model_validator(mode="after")
    def _remote_only_under_a_notice(self) -> InferencePolicy:
        if self.remote_allowed and not self.notice_versions:
            raise ValueError("remote_allowed needs notice_versions: without a notice nobody can have agreed")
        return self


def inference_policy(policy_dir: Path) -> InferencePolicy:
    """`inference.yaml` of a policy folder, read again only when the file changes.

    Raises:
        PolicyError: names the file and every key that is wrong.
    """
    path = policy_dir / FILE_NAME
    try:
        stat = path.stat()
    except OSError:
        return load_policy(path, InferencePolicy)  # raises, naming the file
    return _cached(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=8)
def _cached(path: Path, _modified: int, _size: int) -> InferencePolicy:
    return load_policy(path, InferencePolicy)
