"""Two slots and one swap."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from voice_pipeline.device.slots import STATE, Slots


def stage(slots: Slots, version: str) -> None:
    with slots.staging() as staging:
        (staging / version).mkdir()
        (staging / version / "manifest.json").write_text(version)
        (staging / f"{version}.sig").write_text("signature")
        slots.install(staging)


class SlotsMachine(RuleBasedStateMachine):
    """Whatever is installed, activated or restarted: the active bundle is what was activated last, unharmed."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.slots = Slots(Path(self.folder.name))
        self.active: str | None = None
        self.standby: str | None = None

    def teardown(self) -> None:
        self.folder.cleanup()

    @rule(number=st.integers(0, 5))
    def install(self, number: int) -> None:
        self.standby = f"m-{number}"
        stage(self.slots, self.standby)

    @rule()
    def swap(self) -> None:
        standby = self.slots.standby()
        if standby is not None:
            self.slots.activate(standby)
            self.active, self.standby = self.standby, self.active

    @rule()
    def restart(self) -> None:
        self.slots = Slots(Path(self.folder.name))

    @invariant()
    def slots_hold_what_was_put_there(self) -> None:
        for found, expected in ((self.slots.active(), self.active), (self.slots.standby(), self.standby)):
            assert (found.model_version if found else None) == expected
            if found:
                assert (found.folder / "manifest.json").read_text() == expected


SlotsMachine.TestCase.settings = settings(max_examples=25, stateful_step_count=12, deadline=None)
TestSlots = SlotsMachine.TestCase


def test_abandoned_staging_leaves_nothing(tmp_path: Path) -> None:
    slots = Slots(tmp_path)
    with slots.staging() as staging:
        (staging / "half").write_bytes(b"x")
    assert list(tmp_path.iterdir()) == []


def test_left_overs_of_a_crash_are_swept(tmp_path: Path) -> None:
    for name in ("staging-1", "trash-2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_bytes(b"x")
    (tmp_path / f".{STATE}.1.tmp").write_text("{}")
    Slots(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ["", "[]", "{", '{"slot": "c"}', '{"slot": 3}', "\0"])
def test_unreadable_state_counts_as_nothing_active_and_keeps_the_bundles(tmp_path: Path, content: str) -> None:
    slots = Slots(tmp_path)
    stage(slots, "m-1")
    slots.activate(slots.standby())  # type: ignore[arg-type]
    (tmp_path / STATE).write_text(content)
    slots = Slots(tmp_path)
    assert slots.active() is None
    assert slots.installed("m-1") is not None
