"""Frontend and encoder: the trainer's features are the device's, padding changes nothing, presets keep their size."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from voice_pipeline.speech.audio import SAMPLE_RATE
from voice_pipeline.speech.augmentation import LARGEST_DRAW, LARGEST_WARP_MEL, TEMPO_HOPS, WARP_SHARES
from voice_pipeline.speech.encoder import AcousticModel, BlockDropout
from voice_pipeline.speech.errors import PresetError
from voice_pipeline.speech.frontend import LogMel, _mel_filters, features, frames_of, mel_power
from voice_pipeline.speech.shape import PRESETS, EncoderConfig, preset
from voice_pipeline.speech.tokenizer import BLANK
from voice_pipeline_tests.speech.test_audio import tone

SMALL = EncoderConfig(channels=16, kernels=(5, 7), planes=(4, 4), stride=4)


def noise(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, n).astype(np.float32)


@settings(max_examples=20, deadline=None)
@given(n=st.integers(160, 20_000), mels=st.sampled_from([40, 80]))
def test_the_features_of_training_are_those_of_the_exported_graph(n: int, mels: int) -> None:
    samples = noise(n) * np.linspace(0, 1, n, dtype=np.float32)
    exported = LogMel(mels)(torch.from_numpy(samples)[None])[0].numpy()
    np.testing.assert_allclose(features(mel_power(samples, mels)), exported, atol=1e-3)
    assert len(exported) == frames_of(n)


def test_a_tone_fills_the_bins_around_its_pitch() -> None:
    peaks = [int(mel_power(tone(hertz), 80).mean(axis=0).argmax()) for hertz in (200, 800, 3000)]
    assert peaks == sorted(peaks)
    assert len(set(peaks)) == 3


def test_where_the_axis_is_warped_upwards_a_tone_is_heard_lower() -> None:
    straight, up, down = (
        int(mel_power(tone(1000), 80, warp).mean(axis=0).argmax()) for warp in ((), (0.0, 100.0), (-100.0,))
    )
    assert up < straight < down
    np.testing.assert_array_equal(mel_power(tone(1000), 80, (0.0, 0.0)), mel_power(tone(1000), 80))


def test_another_hop_is_another_tempo_at_the_same_pitch() -> None:
    heard = {hop: mel_power(tone(1000), 80, hop=hop) for hop in TEMPO_HOPS}
    assert [len(power) for power in heard.values()] == [frames_of(tone(1000).size, hop) for hop in TEMPO_HOPS]
    assert len({int(power.mean(axis=0).argmax()) for power in heard.values()}) == 1


@pytest.mark.parametrize("corner", itertools.product((-LARGEST_DRAW, LARGEST_DRAW), repeat=3))
@pytest.mark.parametrize("mels", [40, 80])
def test_the_farthest_warped_axis_still_ascends(corner: tuple[float, ...], mels: int) -> None:
    filters = _mel_filters(mels, tuple(LARGEST_WARP_MEL * WARP_SHARES * corner))
    centres = (np.arange(len(filters)) @ filters) / np.maximum(filters.sum(axis=0), 1e-9)
    assert (np.diff(centres[filters.any(axis=0)]) >= 0).all()  # the lowest share a Fourier bin
    assert (filters.any(axis=0)[mels // 4 :]).all()


def test_loudness_does_not_reach_the_network() -> None:
    loud, quiet = noise(SAMPLE_RATE), noise(SAMPLE_RATE) * np.float32(0.5)
    np.testing.assert_allclose(features(mel_power(loud, 80)), features(mel_power(quiet, 80)), atol=2e-2)


@settings(max_examples=15, deadline=None)
@given(length=st.integers(3, 90), rest=st.integers(0, 60))
def test_padding_behind_an_utterance_changes_nothing_before_it(length: int, rest: int) -> None:
    model = AcousticModel(SMALL).eval()
    utterance = torch.randn(length, SMALL.mels, generator=torch.Generator().manual_seed(length))
    padded = torch.full((2, length + rest, SMALL.mels), 3.0)
    padded[0, :length] = utterance
    lengths = torch.tensor([length, length + rest])
    alone, batched = model.encoder(utterance[None])[0], model.encoder(padded, lengths)[0]
    steps = int(model.encoder.output_lengths(lengths)[0])
    assert len(alone) == steps
    torch.testing.assert_close(batched[:steps], alone, atol=1e-4, rtol=0)


def test_padding_changes_no_gradient_in_training() -> None:
    def gradient(rest: int) -> torch.Tensor:
        torch.manual_seed(0)
        model = AcousticModel(SMALL).train()
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eval()  # its statistics do see padding; everything else must not
        padded = torch.zeros(1, 60 + rest, SMALL.mels)
        padded[0, :60] = torch.randn(60, SMALL.mels)
        model.encoder(padded, torch.tensor([60]))[0, :15].sum().backward()
        return model.encoder.stem.convolutions[0].weight.grad  # type: ignore[return-value]

    torch.testing.assert_close(gradient(0), gradient(36), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("seed", range(4))
def test_an_untrained_network_says_blank_rather_than_spaces(seed: int) -> None:
    torch.manual_seed(seed)
    model = AcousticModel(preset("micro", 29)).train()  # normalised by what it hears, as in the first step
    best = model(torch.from_numpy(noise(2 * SAMPLE_RATE, seed))[None]).argmax(dim=2)
    assert (best == BLANK).float().mean() > 0.9


def test_log_probabilities_sum_to_one_at_every_frame() -> None:
    log_probs = AcousticModel(SMALL).eval()(torch.from_numpy(noise(16_000))[None])
    assert log_probs.shape == (1, 25, SMALL.classes)
    torch.testing.assert_close(log_probs.exp().sum(2), torch.ones(1, 25), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("name", "most"), [("micro", 0.3e6), ("tiny", 1e6), ("small", 5e6), ("base", 15e6)])
def test_presets_keep_their_promised_size(name: str, most: float) -> None:
    assert AcousticModel(preset(name, 29)).parameter_count <= most


def test_every_preset_has_frames_enough_for_fast_spelling() -> None:
    assert all(config.frame_shift_s <= 0.04 for config in PRESETS.values())


def test_an_unknown_preset_is_refused_with_the_known_ones() -> None:
    with pytest.raises(PresetError, match="micro"):
        preset("huge", 29)


def test_a_configuration_comes_back_from_json() -> None:
    config = preset("tiny", 31)
    assert EncoderConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_block_dropout_keeps_the_mean_and_sleeps_in_evaluation() -> None:
    torch.manual_seed(0)
    dropout, ones = BlockDropout(0.25), torch.ones(8, 64, 1, 101)
    dropped = dropout.train()(ones, None)
    assert float(dropped.mean()) == pytest.approx(1, abs=0.02)
    assert float((dropped == 0).float().mean()) == pytest.approx(0.25, abs=0.02)
    assert torch.equal(dropout.eval()(ones, None), ones)


@pytest.mark.parametrize("stride", [3, 8])
def test_a_stride_that_the_planes_cannot_make_is_refused(stride: int) -> None:
    with pytest.raises(PresetError, match=f"stride {stride}"):
        EncoderConfig(channels=16, kernels=(5,), planes=(4, 4), stride=stride)


def test_the_stem_halves_frames_only_as_often_as_the_stride_asks() -> None:
    features = torch.zeros(1, 41, 80)
    for stride, steps in ((1, 41), (2, 21), (4, 11)):
        config = EncoderConfig(channels=16, kernels=(5,), planes=(4, 4), stride=stride)
        assert AcousticModel(config).eval().encoder(features).shape == (1, steps, config.classes)
