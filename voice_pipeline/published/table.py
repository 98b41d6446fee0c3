"""All seeds of the comparison, and as a table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from voice_pipeline.published.corpus import PublishedError
from voice_pipeline.published.judging import SeedResult, judge_seed
from voice_pipeline.published.recipe import train_seed
from voice_pipeline.schema.policy_file import load_policy
from voice_pipeline.schema.retrain_policy import RetrainPolicy
from voice_pipeline.store.store import Store

PROFILE = "full"
SEEDS = (1, 2, 3)


def compare(
    store: Store, corpus: Path, seeds: Sequence[int] = SEEDS, told: Callable[[str], None] = lambda line: None
) -> list[SeedResult]:
    """Train and judge every seed that is not yet; `told` gets a line an epoch.

    Raises:
        PublishedError: no seed, or no AN4 in `corpus`.
    """
    if not seeds:
        raise PublishedError("no seed to train; give at least one")
    profile = load_policy(store.settings.policy_dir / "retrain.yaml", RetrainPolicy).profiles[PROFILE]
    results = []
    for seed in seeds:
        folder = train_seed(
            store,
            corpus,
            seed,
            profile.scratch,
            lambda epoch, seed=seed: told(  # type: ignore[misc]
                f"seed {seed} epoch {epoch.epoch:3}: loss {epoch.loss:.3f}, dev WER {epoch.dev_wer:.1%}, "
                f"{epoch.audio_s_per_s:.0f} audio-s/s"
            ),
        )
        results.append(judge_seed(store, corpus, folder, profile.decoding))
    return results


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def as_markdown(results: Sequence[SeedResult]) -> str:
    """A line a seed and their mean, and below what was trained and judged with which code."""
    lines = [
        "| seed | WER float, greedy | WER int8, greedy (95 %) | WER int8, n-gram beam (95 %) | dev WER | epochs (best) "
        "| minutes | network | p95 | calibration error, sweep (ten bins; by chance) | WER cut at 80 % |",
        "|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for r in results:
        greedy, beam = r.wer_int8_greedy, r.wer_int8_lm
        lines.append(
            f"| {r.seed} | {r.wer_float_greedy.value:.1%} | {greedy.value:.1%} ({greedy.low:.1%} – {greedy.high:.1%}) "
            f"| {beam.value:.1%} ({beam.low:.1%} – {beam.high:.1%}) | {r.dev_wer:.1%} | {r.epochs} ({r.best_epoch}) "
            f"| {r.training_minutes:.0f} | {r.int8_bytes / 1e6:.2f} MB | {r.p95_ms:.0f} ms | {r.confidence_ece:.3f} "
            f"({r.confidence['expected_calibration_error']:.3f}; {r.confidence['calibration_error_by_chance']:.3f}) "
            f"| {r.confidence['wer_cut_at_80_coverage']:.0%} |"
        )
    lines.append(
        f"| mean | {mean([r.wer_float_greedy.value for r in results]):.1%} "
        f"| **{mean([r.wer_int8_greedy.value for r in results]):.1%}** "
        f"| **{mean([r.wer_int8_lm.value for r in results]):.1%}** | {mean([r.dev_wer for r in results]):.1%} | "
        f"| {mean([r.training_minutes for r in results]):.0f} | | | {mean([r.confidence_ece for r in results]):.3f} "
        f"| {mean([r.confidence['wer_cut_at_80_coverage'] for r in results]):.0%} |"
    )
    lines += ["", *(_provenance(result) for result in results)]
    return "\n".join(lines)


def _provenance(result: SeedResult) -> str:
    return (
        f"Seed {result.seed}: {result.parameters:,} parameters, int8 by {result.int8_method}, CER int8 greedy "
        f"{result.cer_int8_greedy:.1%}; trained at {', '.join(map(_short, result.code_commits))}, "
        f"judged at {_short(result.judged_by)}."
    )


def _short(commit: str) -> str:
    """Twelve digits of a commit; that its tree was changed, and how, stays (`provenance.code_commit`)."""
    head, dash, changed = commit.partition("-")
    return head[:12] + dash + changed
