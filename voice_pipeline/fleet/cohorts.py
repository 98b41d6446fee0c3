"""Devices for a corpus that says nothing of them: a story needs cohorts to slice by; only it may invent them."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import replace

from voice_pipeline.fleet.corpus import CorpusClip
from voice_pipeline.fleet.scenario import APP_VERSION, CLASS_SHARES
from voice_pipeline.schema.clip import UNKNOWN_DEVICE, DeviceContext, Microphone

MICROPHONES = (Microphone.HEADSET, Microphone.BUILT_IN, Microphone.BLUETOOTH)


def with_devices(clips: Iterable[CorpusClip], seed: int) -> list[CorpusClip]:
    """The clips; those of whose device nothing is known get one, the same for the same seed and speaker."""
    return [
        replace(clip, context=_drawn(clip.speaker, seed)) if clip.context == UNKNOWN_DEVICE else clip for clip in clips
    ]


def _drawn(speaker: str, seed: int) -> DeviceContext:
    rng = random.Random(f"{seed}|{speaker}")
    return DeviceContext(
        device_class=rng.choice(list(CLASS_SHARES)),
        os="linux-6",
        app_version=APP_VERSION,
        microphone=rng.choice(MICROPHONES),
    )
