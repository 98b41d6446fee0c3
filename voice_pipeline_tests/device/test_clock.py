"""What a device remembers of the time: no clock makes old news fresh again, and none starves it for ever."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voice_pipeline.device.clock import HeldTimestamp, TimeMemory

START = datetime(2026, 11, 2, 9, tzinfo=UTC)
LIFE = 30


def day(number: float) -> datetime:
    return START + timedelta(days=number)


@dataclass
class Device:
    """A device as far as time goes: it takes a timestamp if that is no older than the one it holds and has not expired
    at the reference time, as python-tuf does. Every look goes through the file, as after a restart.
    """

    memory: TimeMemory
    held: HeldTimestamp | None = None
    seen_expired: set[int] = field(default_factory=set)

    def poll(self, clock: datetime) -> None:
        self.memory.look(clock, self.held)
        if self.held and clock >= self.held.expires:
            self.seen_expired.add(self.held.version)

    def fetch(self, clock: datetime, offered: HeldTimestamp) -> bool:
        """Whether the offered timestamp is taken as fresh."""
        reference = self.memory.look(clock, self.held)
        if self.held and clock >= self.held.expires:
            self.seen_expired.add(self.held.version)
        if self.held and offered.version < self.held.version:
            return False
        fresh = reference < offered.expires
        if fresh:
            self.held = offered
        return fresh


STEPS = st.lists(
    st.tuples(st.sampled_from(["poll", "fetch"]), st.integers(0, 400), st.integers(0, 12)), min_size=1, max_size=30
)


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(TimeMemory(tmp_path / "time.json"))


def timestamp(number: int) -> HeldTimestamp:
    """The timestamps that a publisher signs, one every ten days."""
    return HeldTimestamp(number + 1, day(10 * number + LIFE))


@settings(max_examples=300, deadline=None, derandomize=True)
@given(STEPS)
def test_a_timestamp_once_held_and_seen_expired_is_never_taken_again_whatever_the_clock_says(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int, int]]
) -> None:
    """The attacker sets the clock at will and offers any timestamp there ever was."""
    device = Device(TimeMemory(tmp_path_factory.mktemp("device") / "time.json"))
    for what, clock, number in steps:
        offered = timestamp(number)
        if what == "poll":
            device.poll(day(clock))
        elif device.fetch(day(clock), offered):
            assert offered.version not in device.seen_expired
            assert day(clock) < offered.expires


@settings(max_examples=300, deadline=None, derandomize=True)
@given(STEPS, st.floats(0, LIFE - 0.1), st.lists(st.floats(0, 1), max_size=4))
def test_whatever_a_clock_did_before_once_right_it_takes_a_newer_timestamp_and_keeps_taking_it(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int, int]], age: float, later: list[float]
) -> None:
    device = Device(TimeMemory(tmp_path_factory.mktemp("device") / "time.json"))
    for what, clock, number in steps:
        if what == "poll":
            device.poll(day(clock))
        else:
            device.fetch(day(clock), timestamp(number))
    newer = timestamp((device.held.version if device.held else 0) + 1)
    signed = newer.expires - timedelta(days=LIFE)
    now = signed + timedelta(days=age)
    assert device.fetch(now, newer)
    for share in sorted(later):
        assert device.fetch(now + share * (newer.expires - now) * 0.99, newer)
    assert not device.fetch(newer.expires, newer)


def test_time_runs_on_as_long_as_what_is_held_has_not_expired(device: Device) -> None:
    assert device.fetch(day(1), timestamp(0))
    device.poll(day(20))
    assert device.memory.look(day(2), device.held) == day(20)


def test_a_clock_that_was_in_the_future_before_the_first_fetch_does_no_harm(device: Device) -> None:
    device.poll(day(9_999))
    assert device.fetch(day(1), timestamp(0))
    assert device.fetch(day(2), timestamp(0))


def test_a_device_killed_after_it_took_a_timestamp_and_before_it_noted_so_goes_on(device: Device) -> None:
    """The file is from before, and says that the new timestamp expired long ago."""
    assert device.fetch(day(1), timestamp(0))
    device.poll(day(9_999))
    assert device.fetch(day(12), timestamp(1))
    assert device.fetch(day(13), timestamp(1))


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b'{"latest": 3}', b'{"latest": "2026-11-02T09:00:00", "held": null}']
)
def test_a_damaged_record_means_that_nothing_is_remembered(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "time.json"
    path.write_bytes(content)
    assert TimeMemory(path).look(day(3), timestamp(0)) == day(3)
    assert json.loads(path.read_bytes())["held"]["version"] == 1


def test_the_record_is_written_seldom_but_never_misses_an_expiry(tmp_path: Path) -> None:
    path = tmp_path / "time.json"
    memory, held = TimeMemory(path), timestamp(0)
    memory.look(held.expires - timedelta(minutes=5), held)
    before = path.read_bytes()
    memory.look(held.expires - timedelta(minutes=1), held)
    assert path.read_bytes() == before
    memory.look(held.expires + timedelta(seconds=1), held)
    assert path.read_bytes() != before
    assert memory.look(day(1), held) >= held.expires


def test_the_record_outlives_a_kill_between_writing_and_replacing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "time.json"
    TimeMemory(path).look(day(25), timestamp(0))

    def killed(source: Path, target: Path) -> Path:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            TimeMemory(path).look(day(29), timestamp(0))
    assert TimeMemory(path).look(day(1), timestamp(0)) == day(25)
