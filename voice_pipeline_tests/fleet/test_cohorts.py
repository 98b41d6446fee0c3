"""Cohorts are invented for a story alone, by speaker, and never over what a corpus says."""

from __future__ import annotations

from dataclasses import replace

from voice_pipeline.fleet.cohorts import with_devices
from voice_pipeline.schema.clip import NAMED_CLASSES, UNKNOWN_DEVICE, DeviceClass
from voice_pipeline_tests.fleet.test_importer import CLIPS


def test_each_speaker_has_one_device_the_same_for_the_same_seed() -> None:
    drawn = with_devices(CLIPS, seed=1)
    assert drawn == with_devices(CLIPS, seed=1)
    by_speaker = {clip.speaker: clip.context for clip in drawn}
    assert all(clip.context == by_speaker[clip.speaker] for clip in drawn)
    many = with_devices([replace(CLIPS[0], speaker=f"s{n}") for n in range(60)], seed=1)
    assert {clip.context.device_class for clip in many} == set(NAMED_CLASSES)


def test_what_a_corpus_says_of_a_device_is_left() -> None:
    told = UNKNOWN_DEVICE.model_copy(update={"device_class": DeviceClass.LAPTOP})
    (clip,) = with_devices([replace(CLIPS[0], context=told)], seed=1)
    assert clip.context == told
