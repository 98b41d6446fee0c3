"""Names of slices: what suites make is accepted, what no suite could make is refused, and no list is out of date."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from voice_pipeline.evaluation.errors import UnknownConditionError
from voice_pipeline.evaluation.suites import NOT_TOLD as LEFT_OUT
from voice_pipeline.evaluation.suites import length_slice, slices_of, snr_of, snr_slice
from voice_pipeline.schema.clip import DeviceClass, Microphone
from voice_pipeline.schema.dataset import ManifestRow, Split
from voice_pipeline.schema.evaluation import SLICE_KINDS
from voice_pipeline.schema.slices import CLOSED, NOT_TOLD, slice_problem

TOLD = st.text(min_size=1, max_size=20).filter(lambda text: text != "unknown" and "*" not in text)


def row(device: str, microphone: str, accent: str, gender: str, source: str, duration_s: float) -> ManifestRow:
    return ManifestRow(
        clip_id="0" * 36,
        content_sha256="0" * 64,
        speaker="s",
        consent_id="c",
        split=Split.TEST,
        text="yes",
        batch_id="batch-20261101-001",
        shard="shards/batch-20261101-001.tar",
        duration_s=duration_s,
        device_class=device,
        microphone=microphone,
        locale="en-US",
        accent=accent,
        gender=gender,
        source=source,
        captured_at="2026-11-01T00:00:00+00:00",
    )


@given(
    st.sampled_from(DeviceClass),
    st.sampled_from(Microphone),
    *[TOLD | st.sampled_from(["", "unknown"])] * 3,
    st.floats(0.1, 30),
    st.integers(-20, 60) | st.none(),
)
def test_every_slice_that_a_clip_can_count_in_has_a_good_name(
    device: DeviceClass, microphone: Microphone, accent: str, gender: str, source: str, seconds: float, snr: int | None
) -> None:
    condition = "clean" if snr is None else f"noise_{snr}db"
    for name in slices_of(row(device, microphone, accent, gender, source, seconds), condition):
        assert slice_problem(name) == ""


def test_what_is_listed_is_what_suites_make() -> None:
    made = {length_slice(seconds) for seconds in (0.5, 3, 10)}
    for power in (0.0, 0.01, 0.02, 0.05, 0.1, 0.3):
        rng = np.random.default_rng(1)
        loud = np.where(np.arange(32_000) // 8_000 % 2, 1.0, 0.0) * np.sin(np.arange(32_000) / 5)
        made.add(snr_slice((0.5 * loud + power * rng.standard_normal(32_000)).astype(np.float32)))
    devices, microphones = [one.value for one in DeviceClass], [one.value for one in Microphone]
    for device, microphone in product(devices, microphones):
        made |= set(slices_of(row(device, microphone, "", "", "", 3.0), "clean"))
    assert {f"{kind}:{value}" for kind, values in CLOSED.items() for value in values} == made - {"condition:clean"}
    assert set(CLOSED) < set(SLICE_KINDS)
    assert NOT_TOLD == LEFT_OUT


def test_the_kinds_that_are_listed_are_those_that_suites_make() -> None:
    told = row("laptop", "built_in", "en-gb", "female", "device", 2.5)
    made = (*slices_of(told, "clean"), snr_slice(np.zeros(16_000, np.float32)))
    assert {name.partition(":")[0] for name in made} == set(SLICE_KINDS)


@given(st.text(max_size=12) | st.from_regex(r"(noise_-?[0-9]{0,3}(db|dB)?|clean.?)", fullmatch=True))
def test_a_condition_is_good_where_a_suite_can_play_it(condition: str) -> None:
    if not condition.isascii() or condition.endswith("\n"):
        return
    try:
        snr_of(condition)
    except UnknownConditionError:
        assert slice_problem(f"condition:{condition}")
    else:
        assert slice_problem(f"condition:{condition}") == ""


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("noise:nosiy", "its kind is one of condition, device"),
        ("condition:noise_10dB", "such as `noise_10db`"),
        ("condition:nosiy", "`clean` or `noise_<dB>db`"),
        ("condition:clean\n", "`clean` or"),
        ("device:phone", "of device there is phone_low, phone_mid"),
        ("device:unknown", "of device there is"),
        ("microphone:built-in", "of microphone there is built_in"),
        ("length:longer", "of length there is short, medium, long"),
        ("snr:bad", "of snr there is poor, fair, good"),
        ("accent:unknown", "what speakers told"),
        ("gender:*", "what speakers told"),
        ("accent:", "what speakers told"),
        ("accent", "is no slice"),
        ("", "is no slice"),
    ],
)
def test_what_no_suite_could_have_is_told_with_what_it_could(name: str, told: str) -> None:
    assert told in slice_problem(name)
    assert repr(name) in slice_problem(name)
