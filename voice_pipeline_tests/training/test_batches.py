"""Every utterance is seen once an epoch, batches are decided by the seed, and errors of the maker reach the trainer."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from voice_pipeline.speech.augmentation import SPEEDS_PERCENT, TEMPO_HOPS, coloured_noise, room_response
from voice_pipeline.speech.frontend import features, frames_of, mel_power
from voice_pipeline.speech.recogniser import SHORTEST_INPUT, padded
from voice_pipeline.speech.tokenizer import CharTokenizer
from voice_pipeline.training.batches import (
    FRAME_MULTIPLE,
    MOST_FRAMES,
    Augmenter,
    Batch,
    Epoch,
    ahead,
    as_float,
    plan_epoch,
)
from voice_pipeline.training.data import Utterance
from voice_pipeline_tests.training.speech_made_of_tones import language, say, spec_of

UTTERANCES = language(20)
TOKENIZER = CharTokenizer(" ab")
QUIET: dict[str, object] = {"join_share": 0.0, "speed_perturbation": False, "noise_share": 0.0, "masks": 0}


def augmenter(**fields: object) -> Augmenter:
    noises, rooms = [coloured_noise(np.random.default_rng(0), 8000)], [room_response(np.random.default_rng(0))]
    return Augmenter(UTTERANCES, noises, rooms, TOKENIZER, spec_of(**fields).hyperparameters, 80)


def spaces(utterance: Utterance) -> tuple[int, ...]:
    """The middle of each space in the language of tones: 0.1 s of silence, then 0.2 s a character."""
    return tuple(1600 + 3200 * n + 1600 for n, character in enumerate(utterance.text) if character == " ")


def texts(batch: Batch) -> list[str]:
    parts = batch.targets.split(batch.target_lengths.tolist())
    return [TOKENIZER.decode(ids.tolist()) for ids in parts]


@given(st.lists(st.integers(1, 10_000), max_size=300), st.integers(1, 20), st.integers(0, 5))
def test_an_epoch_holds_every_utterance_once(sizes: list[int], batch_size: int, seed: int) -> None:
    plan = plan_epoch(np.random.default_rng(seed), sizes, batch_size)
    assert sorted(index for batch in plan for index in batch) == list(range(len(sizes)))
    assert all(1 <= len(batch) <= batch_size for batch in plan)
    assert all(len(batch) == 1 or len(batch) * max(sizes[i] for i in batch) <= MOST_FRAMES for batch in plan)


def test_batches_are_of_like_final_lengths() -> None:
    batches_ = list(Epoch(augmenter(join_share=0.5, batch_size=2), 1, 1))
    padded = sum(batch.features.shape[0] * batch.features.shape[1] for batch in batches_)
    in_order = [batch.lengths for batch in Epoch(augmenter(join_share=0.5, batch_size=20), 1, 1)]
    assert padded < sum(len(lengths) * int(lengths.max()) for lengths in in_order) * 1.35


def test_examples_are_as_long_as_they_were_drawn() -> None:
    maker = augmenter(join_share=0.5, room_share=0.5, tempo_perturbation=True, formant_mel=40.0)
    for index in range(len(UTTERANCES)):
        draw = maker.draw(np.random.default_rng(index), index)
        example, _ = maker.example(np.random.default_rng(index), draw)
        assert len(example) == draw.frames


def test_formants_move_and_nothing_else_does() -> None:
    plain, other_plain = (example_of(seed, formant_mel=0.0) for seed in (1, 2))
    moved, moved_elsewhere = (example_of(seed, formant_mel=40.0) for seed in (1, 2))
    assert torch.equal(plain, other_plain)
    assert not torch.equal(moved, plain)
    assert not torch.equal(moved, moved_elsewhere)
    for warped in (moved, moved_elsewhere):
        assert float(torch.corrcoef(torch.stack([warped.mean(1), plain.mean(1)]))[0, 1]) > 0.8  # silences stay


def test_another_tempo_is_another_length() -> None:
    maker = augmenter(**{**QUIET, "tempo_perturbation": True})
    draws = [maker.draw(np.random.default_rng(seed), 3) for seed in range(40)]
    assert {draw.hop for draw in draws} == set(TEMPO_HOPS)
    for draw in draws:
        example, _ = maker.example(np.random.default_rng(0), draw)
        assert len(example) == UTTERANCES[3].samples.size // draw.hop


def example_of(seed: int, **fields: object) -> torch.Tensor:
    """An utterance that nothing but `fields` changes."""
    maker = augmenter(**{**QUIET, **fields})
    return maker.example(np.random.default_rng(seed), maker.draw(np.random.default_rng(3), 3))[0]


def test_a_clip_that_a_recogniser_pads_is_learnt_padded() -> None:
    short = Utterance("short", "s", "a", UTTERANCES[0].samples[2000:5000])
    maker = Augmenter([short], [], [], TOKENIZER, spec_of(**QUIET).hyperparameters, 80)
    draw = maker.draw(np.random.default_rng(0), 0)
    learnt, _ = maker.example(np.random.default_rng(0), draw)
    heard = features(mel_power(padded(as_float(short)), 80))
    assert len(learnt) == draw.frames == len(heard) == frames_of(SHORTEST_INPUT)
    np.testing.assert_array_equal(learnt.numpy(), heard)
    np.testing.assert_array_equal(maker.clean(short).numpy(), heard)


def test_a_room_changes_what_is_heard_and_not_what_was_said() -> None:
    dry, wet = (list(Epoch(augmenter(room_share=share), 1, 1)) for share in (0.0, 1.0))
    assert all(torch.equal(a.targets, b.targets) for a, b in zip(dry, wet, strict=True))
    assert not any(torch.equal(a.features, b.features) for a, b in zip(dry, wet, strict=True))


def test_noise_lies_over_its_share_of_examples() -> None:
    dry, noisy = (list(Epoch(augmenter(noise_share=share), 1, 1)) for share in (0.0, 1.0))
    assert all(torch.equal(a.targets, b.targets) for a, b in zip(dry, noisy, strict=True))
    assert not any(torch.equal(a.features, b.features) for a, b in zip(dry, noisy, strict=True))


def test_every_speed_is_drawn() -> None:
    maker = augmenter(speed_perturbation=True)
    assert {maker.draw(np.random.default_rng(seed), 0).speed for seed in range(60)} == set(SPEEDS_PERCENT)


def test_the_same_epoch_is_the_same_twice_and_another_is_not() -> None:
    first, again, next_one = (list(Epoch(augmenter(), 1, epoch)) for epoch in (1, 1, 2))
    assert all(torch.equal(a.features, b.features) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a.targets, b.targets) for a, b in zip(first, next_one, strict=True))


def test_without_joins_an_epoch_says_exactly_what_people_said() -> None:
    said = Counter(text for batch in Epoch(augmenter(join_share=0.0), 1, 1) for text in texts(batch))
    assert said == Counter(u.text for u in UTTERANCES)


def test_a_join_is_two_utterances_of_one_speaker() -> None:
    own = {u.speaker: {v.text for v in UTTERANCES if v.speaker == u.speaker} for u in UTTERANCES}
    pairs = {f"{a} {b}" for said in own.values() for a in said for b in said}
    heard = [text for batch in Epoch(augmenter(join_share=1.0), 1, 1) for text in texts(batch)]
    assert set(heard) <= pairs


def test_a_splice_is_the_beginning_of_one_and_the_end_of_another_utterance_of_the_speaker() -> None:
    maker = augmenter(splice_share=1.0, **QUIET)
    maker.cuts = [spaces(utterance) for utterance in UTTERANCES]
    spliced = 0
    for index, utterance in enumerate(UTTERANCES):
        rng = np.random.default_rng(index)
        draw = maker.draw(rng, index)
        heard, ids = maker.example(rng, draw)
        assert len(heard) == draw.frames
        if draw.ending is None:
            assert TOKENIZER.decode(ids) == utterance.text
            continue
        spliced += 1
        other = UTTERANCES[draw.ending.index]
        assert other.speaker == utterance.speaker
        begun, ended = utterance.text.split(" "), other.text.split(" ")
        assert TOKENIZER.decode(ids) == " ".join([*begun[: draw.ending.words], *ended[draw.ending.word :]])
        said = say(TOKENIZER.decode(ids), utterance.speaker, 0)
        assert abs(len(heard) - frames_of(said.sample_count)) <= 1  # every character takes as long in this language
    assert spliced > 5


def test_without_cuts_nothing_is_spliced() -> None:
    whole = [texts(batch) for batch in Epoch(augmenter(splice_share=1.0), 1, 1)]
    assert whole == [texts(batch) for batch in Epoch(augmenter(splice_share=0.0), 1, 1)]


def test_frames_are_padded_to_a_multiple_with_zeros() -> None:
    for batch in Epoch(augmenter(), 1, 1):
        assert batch.features.shape[1] % FRAME_MULTIPLE == 0
        for row, length in enumerate(batch.lengths.tolist()):
            assert not batch.features[row, length:].any()
            assert batch.features[row, :length].any()


def test_an_error_while_a_batch_is_made_reaches_the_trainer() -> None:
    def broken(number: int) -> Batch:
        raise RuntimeError(f"batch {number}")

    with pytest.raises(RuntimeError, match="batch 0"):
        list(ahead(broken, 3))


def test_a_trainer_that_stops_early_leaves_no_thread_behind() -> None:
    import threading

    stream = iter(Epoch(augmenter(batch_size=1), 1, 1))
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert not [t for t in threading.enumerate() if t.name == "batches"]
