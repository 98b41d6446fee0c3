"""Gates: each fails for its own reason, none passes on missing evidence, verdicts are bound to bundle and policy."""

from __future__ import annotations

from datetime import timedelta

import pytest

from voice_pipeline.release.errors import MissingEvidenceError
from voice_pipeline.release.evidence import GATES, gate_problems, stored_verdicts
from voice_pipeline.schema.release import Outcome
from voice_pipeline.schema.release import ReleaseState as S
from voice_pipeline.store.releases import live
from voice_pipeline.store.tables import verdicts
from voice_pipeline_tests.release.world import World


def test_a_better_model_passes_every_gate_and_is_gated(small: World) -> None:
    small.bootstrap(small.model(0.2))
    view = small.register(small.model(0.1))
    assert view.state is S.GATED
    found = stored_verdicts(small.store, view.bundle_digest, small.policy.digest)
    assert set(found) == set(GATES)
    assert {v.outcome for v in found.values()} == {Outcome.PASS}


@pytest.mark.parametrize(
    ("gate", "kind"),
    [
        ("noisy_wer_improvement", {"wer": 0.2}),
        ("int8_delta", {"wer": 0.1, "float_wer": 0.05}),
        ("latency", {"wer": 0.1, "p95_ms": 81.0}),
        ("size", {"wer": 0.1, "network_bytes": 2_000_001}),
    ],
)
def test_a_model_that_misses_one_gate_is_rejected_for_it(small: World, gate: str, kind: dict) -> None:
    small.bootstrap(small.model(0.2))
    view = small.register(small.model(**kind))
    assert view.state is S.REJECTED
    assert f"gate {gate} is fail" in view.transitions[-1].reason


def test_a_slice_that_got_certainly_worse_rejects_an_otherwise_better_model(small: World) -> None:
    small.bootstrap(small.model(0.2))
    view = small.register(small.model(0.15, slice_errors={"clean": 0.3}))
    assert "gate slice_margins is fail" in view.transitions[-1].reason
    assert "condition:clean" in view.transitions[-1].reason


def test_a_bundle_changed_after_signing_is_rejected(small: World) -> None:
    small.bootstrap(small.model(0.2))
    model = small.model(0.1)
    small.change_bundle(model)
    with pytest.raises(MissingEvidenceError):  # its evaluation heard other bytes, and these cannot be heard
        small.register(model)
    assert small.view(model).state is S.CANDIDATE


def test_a_bundle_with_another_signature_is_rejected(small: World) -> None:
    small.bootstrap(small.model(0.2))
    model, other = small.model(0.1), small.model(0.05)
    folder = small.store.settings.bundles
    (folder / f"{model}.sig").write_bytes((folder / f"{other}.sig").read_bytes())
    view = small.register(model)
    assert view.state is S.REJECTED
    assert "gate bundle_integrity is fail" in view.transitions[-1].reason


def test_an_unpublished_bundle_leaves_no_verdict(small: World) -> None:
    model = small.model(0.2, published=False)
    with pytest.raises(MissingEvidenceError, match="not published"):
        small.register(model)
    assert not small.store.database.rows(verdicts.select())


def test_the_first_model_awaits_a_persons_sign_off(small: World) -> None:
    view = small.register(small.model(0.2))
    assert view.state is S.AWAITING_SIGN_OFF
    assert "bootstrap" in view.transitions[-1].reason


def test_verdicts_of_another_policy_bundle_or_time_count_as_failure(small: World) -> None:
    small.bootstrap(small.model(0.2))
    view = small.register(small.model(0.1))
    against = live(small.store)
    assert against is not None
    assert gate_problems(small.store, small.policy, view.bundle_digest, against.bundle_digest) == []
    changed = small.policy.model_copy(update={"version": 2})
    assert len(gate_problems(small.store, changed, view.bundle_digest, against.bundle_digest)) == len(GATES)
    assert len(gate_problems(small.store, small.policy, "0" * 64, against.bundle_digest)) == len(GATES)
    assert gate_problems(small.store, small.policy, view.bundle_digest, "0" * 64) == [
        "gates were judged against another live model"
    ]
    small.clock.advance(timedelta(days=15))
    assert len(gate_problems(small.store, small.policy, view.bundle_digest, against.bundle_digest)) == len(GATES)


def test_a_verdict_edited_in_its_table_changes_nothing(small: World) -> None:
    small.bootstrap(small.model(0.2))
    view = small.register(small.model(0.2))
    rows = small.store.database.rows(verdicts.select().where(verdicts.c.bundle_digest == view.bundle_digest))
    with small.store.database.write() as connection:
        for row in rows:
            forged = {**row["verdict"], "outcome": "pass"}
            connection.execute(verdicts.update().where(verdicts.c.gate == row["gate"]).values(verdict=forged))
    found = stored_verdicts(small.store, view.bundle_digest, small.policy.digest)
    assert found["noisy_wer_improvement"].outcome is Outcome.FAIL


def test_registering_twice_changes_nothing(small: World) -> None:
    model = small.model(0.2)
    first = small.register(model)
    head = small.store.ledger.head()
    assert small.register(model) == first
    assert small.store.ledger.head() == head
