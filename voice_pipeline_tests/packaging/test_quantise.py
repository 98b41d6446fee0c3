"""Int8 graphs: made in several ways, chosen by words, small, and never through the Fourier convolution."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from voice_pipeline.packaging import quantise as quantising
from voice_pipeline.packaging.errors import MissingInputError, QuantisationError
from voice_pipeline.packaging.export import onnx_bytes
from voice_pipeline.packaging.graph import ort_bytes, quantisable_nodes, symmetric_int8
from voice_pipeline.packaging.quantise import (
    TOLERATED,
    Candidate,
    Heard,
    choose,
    int8_model_path,
    make_candidates,
    quantise,
    quantised,
    words_of,
)
from voice_pipeline.schema.alphabet import CASED_PUNCTUATED
from voice_pipeline.schema.policy_file import load_policy
from voice_pipeline.schema.release_policy import ReleasePolicy
from voice_pipeline.schema.training import Preset
from voice_pipeline.settings import PROJECT_ROOT
from voice_pipeline.speech.shape import preset
from voice_pipeline.speech.tokenizer import CharTokenizer
from voice_pipeline.store.store import Store
from voice_pipeline_tests.packaging.conftest import MODEL, PackagedHome
from voice_pipeline_tests.packaging.small_models import network

METHODS = ["float", "static-qdq", "static-qdq-pointwise", "weights-only", "dynamic"]


def candidate(method: str, wer: float, latency_ms: float = 1.0) -> Candidate:
    return Candidate(method=method, wer=wer, latency_p50_ms=latency_ms, size=1, sha256="0" * 64)


FLOAT = candidate("float", 0.0)


@pytest.fixture(scope="module")
def candidates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("candidates")
    (folder / "float.onnx").write_bytes(onnx_bytes(network(0)))
    random = np.random.default_rng(0)
    clips = [Heard("", random.normal(0, 0.1, 8_000 + 500 * n).astype(np.float32)) for n in range(8)]
    return make_candidates(folder / "float.onnx", clips, folder)


@settings(deadline=None)
@given(st.integers(1, 2000), st.data())
def test_the_first_within_one_word_or_the_tolerated_share_of_the_best_is_chosen(
    words: int, data: st.DataObject
) -> None:
    errors = data.draw(st.lists(st.integers(0, words), min_size=1, max_size=5))
    offered = [candidate(str(number), wrong / words) for number, wrong in enumerate(errors)]
    most = min(errors) + max(1, TOLERATED * min(errors))
    assert int(choose([FLOAT, *offered], words).method) == next(n for n, wrong in enumerate(errors) if wrong <= most)


def test_a_good_network_is_not_made_worse_by_a_tenth_for_speed() -> None:
    offered = [candidate("fast", 0.055), candidate("small", 0.05)]
    assert choose([FLOAT, *offered], 1000).method == "small"
    assert choose([FLOAT, *offered], 200).method == "fast", "one word in 200"
    assert choose([FLOAT, candidate("fast", 1.0), candidate("small", 0.0)], 0).method == "fast", "no difference"


def test_what_is_slower_than_float_by_half_is_not_taken_for_a_few_words() -> None:
    """A story's v3 was held in its canary: the dynamic form missed four words of 318 less, and took twice the time."""
    floating, static, slow = (
        candidate("float", 0.3616, 2.23), candidate("static-qdq", 0.3711, 2.2), candidate("dynamic", 0.3585, 4.3)
    )  # fmt: skip
    assert choose([floating, static, slow], 318).method == "static-qdq"
    assert choose([floating, static, candidate("dynamic", 0.3585, 3.3)], 318).method == "dynamic"
    with pytest.raises(QuantisationError, match="as fast as"):
        choose([floating, slow], 318)


@settings(deadline=None)
@given(st.lists(st.text(max_size=20), min_size=1, max_size=5))
def test_words_are_those_that_the_error_rate_is_a_share_of(texts: list[str]) -> None:
    from voice_pipeline.speech.scoring import score

    clips = [Heard(text, np.zeros(1, dtype=np.float32)) for text in texts]
    assert words_of(clips) == sum(score(text, "").words for text in texts)


def test_nothing_to_choose_from_is_an_error() -> None:
    for nothing in ([], [FLOAT]):
        with pytest.raises(QuantisationError):
            choose(nothing, 100)


@given(arrays(np.float32, (4, 3, 1, 2), elements=st.floats(-100, 100, width=32)))
def test_int8_weights_are_within_half_a_step_of_the_float_ones(weights: np.ndarray) -> None:
    quantised_weights, scale = symmetric_int8(weights)
    restored = quantised_weights.astype(np.float64) * scale[:, None, None, None]
    assert (np.abs(restored - weights) <= scale[:, None, None, None] * 0.5001 + 1e-30).all()


def test_only_the_encoders_convolutions_are_quantised(tmp_path: Path) -> None:
    (tmp_path / "float.onnx").write_bytes(onnx_bytes(network(0)))
    nodes = quantisable_nodes(tmp_path / "float.onnx")
    assert len(nodes.depthwise) == 4  # two blocks of two separable convolutions
    assert len(nodes.dense) == 7  # their pointwise halves; two of the stem and its way out
    assert not [name for name in (*nodes.depthwise, *nodes.dense) if "frontend" in name or "excite" in name]
    assert not [name for name in nodes.dense if "stem/convolutions.0" in name], "what reads the features stays in float"


def test_every_candidate_runs_and_stays_near_the_float_graph(candidates: dict[str, Path]) -> None:
    import onnxruntime

    waveform = np.random.default_rng(1).normal(0, 0.1, (1, 20_000)).astype(np.float32)
    answers = {
        name: onnxruntime.InferenceSession(str(path)).run(None, {"waveform": waveform})[0]
        for name, path in candidates.items()
    }
    for name, answer in answers.items():
        assert np.abs(answer - answers["float"]).mean() < 0.2, name
    assert list(answers) == METHODS


def test_rounding_weights_costs_less_than_rounding_activations_too(candidates: dict[str, Path]) -> None:
    import onnxruntime

    random = np.random.default_rng(1)
    sounds = [random.normal(0, 0.1, (1, 12_000)).astype(np.float32) for _ in range(4)]
    sessions = {name: onnxruntime.InferenceSession(str(path)) for name, path in candidates.items()}
    answers = {
        name: np.stack([session.run(None, {"waveform": sound})[0] for sound in sounds])
        for name, session in sessions.items()
    }
    away = {name: np.abs(answer - answers["float"]).mean() for name, answer in answers.items()}
    assert 0 < away["weights-only"] < away["static-qdq"] / 2, away


@pytest.mark.parametrize("size", [Preset.MICRO, Preset.TINY, Preset.SMALL])
def test_an_untrained_network_with_capitals_and_marks_is_within_its_limit_in_every_form(
    size: Preset, tmp_path: Path
) -> None:
    policy = load_policy(PROJECT_ROOT / "policy" / "release.yaml", ReleasePolicy)
    limit = policy.gates.size.max_bytes[size]
    shape = preset(size, CharTokenizer(CASED_PUNCTUATED).size)
    (tmp_path / "float.onnx").write_bytes(onnx_bytes(network(0, shape)))
    clip = Heard("", np.random.default_rng(0).normal(0, 0.1, 8_000).astype(np.float32))
    made = make_candidates(tmp_path / "float.onnx", [clip], tmp_path)
    assert made.pop("float").stat().st_size > limit, "four bytes a weight are too many: int8 is what makes it fit"
    sizes = {name: (path.stat().st_size, len(ort_bytes(path))) for name, path in made.items()}
    assert all(max(forms) <= limit for forms in sizes.values()), sizes
    assert list(sizes) == METHODS[1:]


def test_int8_weights_are_stored_as_int8(candidates: dict[str, Path]) -> None:
    import onnx

    float_names = {t.name for t in onnx.load(str(candidates["float"])).graph.initializer}
    for name in ("static-qdq", "weights-only"):
        stored = onnx.load(str(candidates[name])).graph.initializer
        kept_float = [t for t in stored if t.data_type == onnx.TensorProto.FLOAT and len(t.dims) == 4]
        assert len([t for t in stored if t.data_type == onnx.TensorProto.INT8 and len(t.dims) == 4]) == 11, name
        assert len(kept_float) == 6, name  # squeeze-and-excitation twice two, the stem's first convolution, the head
    assert float_names


def test_a_relu_is_the_range_of_its_convolution_and_not_a_second_rounding(candidates: dict[str, Path]) -> None:
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(str(candidates["static-qdq"])).graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    producers = {output: node for node in graph.node for output in node.output}
    convolutions = [node for node in graph.node if node.op_type == "Conv" and node.input[1] in producers]
    int8 = {node.output[0] for node in convolutions if producers[node.input[1]].op_type == "DequantizeLinear"}
    rounding = [node for node in graph.node if node.op_type == "QuantizeLinear" and node.input[0] in int8]
    assert len(int8) == len(rounding) == 11
    assert len([node for node in rounding if constants[node.input[2]] == 0]) == 5, "stem three, one in each block"
    dequantised = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    left = [node.name for node in graph.node if node.op_type == "Relu" and node.input[0] in dequantised]
    assert left == [], left


def test_residual_blocks_add_up_sums_that_nobody_rounded(candidates: dict[str, Path]) -> None:
    import onnx

    graph = onnx.load(str(candidates["static-qdq"])).graph
    producers = {output: node for node in graph.node for output in node.output}
    first, second = (node for node in graph.node if node.op_type == "Add" and "blocks" in node.name)
    assert [producers[name].op_type for name in second.input].count("Relu") == 1, "the first block's sum, in float"
    assert [producers[name].op_type for name in first.input].count("DequantizeLinear") == 1, "its rounding is its ReLU"


def test_choice_is_recorded_with_all_candidates_and_repeated_without_work(packaged: PackagedHome) -> None:
    record = quantised(packaged.store, MODEL)
    assert record is not None
    assert [c.method for c in record.candidates] == METHODS
    assert record.sha256 in {c.sha256 for c in record.candidates[1:]}
    assert record.calibration_clips > 0
    assert record.development_words > 0
    assert quantise(packaged.store, MODEL) == record


def test_a_changed_int8_file_does_not_count(packaged: PackagedHome) -> None:
    path = int8_model_path(packaged.store, MODEL)
    intact = path.read_bytes()
    path.write_bytes(intact[:-1] + bytes([intact[-1] ^ 1]))
    try:
        assert quantised(packaged.store, MODEL) is None
    finally:
        path.write_bytes(intact)


def test_every_speaker_is_among_the_calibration_clips(packaged: PackagedHome, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def stop(_source: Path, calibration: list[Heard], _folder: Path) -> None:
        sizes.extend(clip.samples.size for clip in calibration)
        raise QuantisationError("seen")

    monkeypatch.setattr(quantising, "quantised", lambda *_: None)
    monkeypatch.setattr(quantising, "make_candidates", stop)
    monkeypatch.setattr(quantising, "CALIBRATION_CLIPS", 3)
    with pytest.raises(QuantisationError, match="seen"):
        quantise(packaged.store, MODEL)
    numbers = [(size - 9_600) // 400 for size in sizes]  # a train clip's number names its speaker
    assert sorted(number % 3 for number in numbers) == [0, 1, 2]


def test_model_that_was_not_exported_is_refused(store: Store) -> None:
    with pytest.raises(MissingInputError, match="onnx_model"):
        quantise(store, "m-20261102-ffffffff")
