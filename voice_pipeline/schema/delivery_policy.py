"""What `policy/delivery.yaml` may say: who must sign the update repository's metadata, and for how long it counts."""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum
from pathlib import Path

from pydantic import Field, model_validator

from voice_pipeline.schema.base import Record
from voice_pipeline.schema.policy_file import load_policy

FILE_NAME = "delivery.yaml"


class MetadataRole(StrEnum):
    """The four top-level roles of TUF (https://theupdateframework.github.io/specification/latest/#roles-and-pki)."""

    ROOT = "root"
    TARGETS = "targets"
    SNAPSHOT = "snapshot"
    TIMESTAMP = "timestamp"


class RoleRule(Record):
    """Attributes:
    keys: how many keys the role has.
    threshold: how many of them must sign; at most `keys`.
    days: how long a signature counts; whoever holds older metadata takes no update from it.
    """

    keys: int = Field(ge=1, le=20)
    threshold: int = Field(ge=1)
    days: int = Field(ge=1, le=3650)

    @model_validator(mode="after")
    def _reachable(self) -> RoleRule:
        if self.threshold > self.keys:
            raise ValueError(f"threshold {self.threshold} is more than the {self.keys} keys there are")
        return self

    @property
    def lifetime(self) -> timedelta:
        return timedelta(days=self.days)


class DeliveryPolicy(Record):
    """The whole file. A changed rule counts for what is signed from then on; numbers of keys and thresholds change when
    the role is next rotated, since only a root signed by the former root's keys may change them.
    """

    root: RoleRule = RoleRule(keys=3, threshold=2, days=365)
    targets: RoleRule = RoleRule(keys=2, threshold=1, days=365)
    snapshot: RoleRule = RoleRule(keys=1, threshold=1, days=30)
    timestamp: RoleRule = RoleRule(keys=1, threshold=1, days=30)

    @model_validator(mode="after")
    def _the_timestamp_is_what_runs_out_first(self) -> DeliveryPolicy:
        longest = min(self.root.days, self.targets.days, self.snapshot.days)
        if self.timestamp.days > longest:
            raise ValueError(
                f"timestamp.days is {self.timestamp.days}, another's {longest}; the timestamp must not outlive it: "
                "it tells a device that it is shown the present"
            )
        return self

    def rule(self, role: MetadataRole) -> RoleRule:
        """The rule of one role."""
        rule: RoleRule = getattr(self, role.value)
        return rule


def load_delivery_policy(policy_dir: Path) -> DeliveryPolicy:
    """Read `delivery.yaml` of the policy folder; a folder without one has the defaults.

    Raises:
        PolicyError: names the file and every key that is wrong.
    """
    path = policy_dir / FILE_NAME
    return load_policy(path, DeliveryPolicy) if path.exists() else DeliveryPolicy()
