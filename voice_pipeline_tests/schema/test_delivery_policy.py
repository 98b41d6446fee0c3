"""Who signs what: what the file may say, and that the one in the repository says it."""

from __future__ import annotations

from pathlib import Path

import pytest

from voice_pipeline.schema.delivery_policy import DeliveryPolicy, MetadataRole, load_delivery_policy
from voice_pipeline.schema.policy_file import PolicyError
from voice_pipeline.settings import PROJECT_ROOT


def test_the_projects_own_file_is_valid_and_survives_a_lost_and_a_stolen_root_key() -> None:
    policy = load_delivery_policy(PROJECT_ROOT / "policy")
    assert policy == DeliveryPolicy(), "a home whose policy folder has no such file signs alike"
    assert 1 < policy.root.threshold < policy.root.keys


def test_a_folder_without_the_file_has_the_defaults(tmp_path: Path) -> None:
    assert load_delivery_policy(tmp_path) == DeliveryPolicy()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("root: {keys: 2, threshold: 3, days: 365}", "threshold 3 is more than the 2 keys"),
        ("root: {keys: 0, threshold: 0, days: 365}", "root.keys"),
        ("root: {keys: 3, threshold: 0, days: 365}", "root.threshold"),
        ("snapshot: {keys: 1, threshold: 1, days: 0}", "snapshot.days"),
        ("timestamp: {keys: 1, threshold: 1, days: 31}", "must not outlive it"),
        ("root: {keys: 3, threshold: 2, days: 365, hours: 1}", "root.hours"),
        ("mirrors: {keys: 1, threshold: 1, days: 1}", "mirrors"),
        ("root: [", "cannot be read"),
        ("3", "not valid"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "delivery.yaml").write_text(text)
    with pytest.raises(PolicyError, match=told):
        load_delivery_policy(tmp_path)


@pytest.mark.parametrize("role", list(MetadataRole))
def test_every_role_has_a_rule(role: MetadataRole) -> None:
    assert DeliveryPolicy().rule(role).lifetime.days == DeliveryPolicy().rule(role).days
