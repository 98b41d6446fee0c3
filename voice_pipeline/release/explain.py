"""`policy/release.yaml` in plain words: `voice-pipeline policy explain release` and `docs/release-policy.md`."""

from __future__ import annotations

from pathlib import Path

from voice_pipeline.release.analysis import CANARY_STAGES, MEASURES
from voice_pipeline.schema.policy_file import load_policy
from voice_pipeline.schema.release import EXPOSURE_PERCENT, Decision
from voice_pipeline.schema.release_policy import ANYONE, FILE_NAME, Gates, Guardrails, ReleasePolicy

_SAID = {
    Decision.APPROVE: "sign a release off",
    Decision.REJECT: "reject a candidate",
    Decision.HOLD: "hold a rollout",
    Decision.RESUME: "resume a held rollout",
    Decision.ROLLBACK: "roll a release back",
}


def explain_release(policy_dir: Path) -> str:
    """The release policy in `policy_dir` as Markdown. Raises `PolicyError`."""
    return explain(load_policy(policy_dir / FILE_NAME, ReleasePolicy))


def explain(policy: ReleasePolicy) -> str:
    """`policy` as Markdown."""
    return "\n".join(
        [
            "# How a model comes to devices",
            "",
            "Made from `policy/release.yaml` by `voice-pipeline policy explain release`; change it there.",
            f"Version {policy.version}, owned by {policy.owner}, digest `{policy.digest[:12]}`.",
            "",
            *_gates(policy.gates),
            *_sign_off(policy),
            *_stages(policy),
            *_harm(policy.guardrails),
            *_telemetry(policy),
            *_authority(policy),
        ]
    ).rstrip("\n")


def _gates(gates: Gates) -> list[str]:
    noisy, margins = gates.noisy_wer_improvement, gates.slice_margins
    slices = ", ".join(f"`{name}`" for name in gates.coverage.required_slices)
    size, download = (
        ", ".join(f"{preset} {limit / 1e6:g} MB" for preset, limit in gate.max_bytes.items())
        for gate in (gates.size, gates.download)
    )
    return [
        "## Before any device hears of it",
        "",
        "Every gate writes a verdict bound to the bundle's and this policy's digest. All must pass; a verdict that is",
        f"missing, older than {gates.max_age_days:g} days, made under another policy or against another live model",
        "counts as failure.",
        "",
        "- **bundle_integrity**: every file and the signature match the digest.",
        f"- **noisy_wer_improvement**: on `{noisy.slice}` the word error rate is at least "
        f"{noisy.min_relative_improvement:.0%} lower (relative) than the live model's, and the probability of being "
        f"worse is at most {noisy.max_probability_worse:g} (paired bootstrap over speakers, "
        f"{gates.bootstrap_samples} samples).",
        f"- **slice_margins**: no slice with {margins.min_words} words of {margins.min_speakers} speakers is worse by "
        f"more than {margins.max_regression:.1%} absolute, certain at {margins.confidence:.0%}.",
        f"- **int8_delta**: int8 and float differ by at most {gates.int8_delta.max_delta:.1%} absolute.",
        f"- **latency**: p95 on one thread is at most {gates.latency.max_p95_ms:g} ms on every device class, by the "
        "device lab's reports; where it sent none the evaluating host stands in, and the verdict says so. A slower "
        "report that comes later stops the next step.",
        f"- **size**: the network, in the larger of its two forms, is at most: {size}.",
        "- **download**: the compressed archive that a device fetches (both forms of the network, language model, "
        f"golden sounds, cards, manifest, signature) is at most: {download}.",
        f"- **coverage**: the suite has {gates.coverage.min_clips} clips, {gates.coverage.min_speakers} speakers, "
        f"{gates.coverage.min_words} words and the slices {slices}.",
        "",
    ]


def _sign_off(policy: ReleasePolicy) -> list[str]:
    locales = ", ".join(policy.gates.coverage.sensitive_locales) or "none"
    return [
        "## When a person must sign off",
        "",
        f"Too little coverage, a sensitive locale ({locales}), or no live model to compare with. Only the first model",
        "of an installation goes from its sign-off straight to production: there is nothing to run it beside.",
        "",
    ]


def _stages(policy: ReleasePolicy) -> list[str]:
    promotion = policy.promotion
    rows = []
    for stage in policy.stages:
        percent = EXPOSURE_PERCENT.get(stage.state)
        share = f"{percent} %" if percent else f"0 % ({policy.shadow.device_percent:g} % silently)"
        rows.append(
            f"| {stage.state} | {share} | {stage.min_minutes:g} min | {stage.min_devices} | {stage.min_events} "
            f"| {stage.noninferiority_margin:.0%} |"
        )
    return [
        "## The way to production",
        "",
        "A policy that skips a stage does not parse.",
        "",
        "| stage | devices exposed | at least | devices | dictations | margin |",
        "|---|---|--:|--:|--:|--:|",
        *rows,
        "| production | 100 % | | | | |",
        "",
        "A stage is passed when the correction rate, by device, is shown not to be worse by more than its margin",
        f"(one-sided test at {promotion.alpha:g}, split over {promotion.max_looks} looks spaced by the stage's time),",
        f"and p95 latency is at most {promotion.max_latency_ratio:g} times the live model's. Not shown after",
        f"{promotion.max_looks} looks: held for a person. Shown to be worse: rolled back.",
        "",
    ]


def _harm(rules: Guardrails) -> list[str]:
    per_test = rules.alpha / (CANARY_STAGES * len(MEASURES))
    return [
        "## Harm",
        "",
        "Tested at every tick by bounds that hold at all times together; each device counts once a stage, with its",
        f"first {rules.dictations_per_device} dictations. The chance of ever rolling back a harmless model is at most "
        f"{rules.alpha:g} a rollout ({per_test:.4f} a test).",
        "Every device that the candidate is offered to counts, also one whose app is too old for the live model; it is",
        "compared with what such apps run. Only devices that run both models can promote.",
        "Harm is certain when a share of dictations exceeds that of the others by more than:",
        "",
        f"- words corrected: {rules.correction_rate:.0%}",
        f"- slower, for the length of the speech, than {rules.slow_ratio:g} times the p95 of the real-time factor "
        f"before the stage on that device class: {rules.slow:.0%}",
        f"- crashed: {rules.crash:.0%}; abandoned: {rules.abandonment:.0%}; fallen back: {rules.fallback:.0%}",
        f"- devices fallen silent within {rules.silence_minutes:g} minutes: {rules.silence:.0%}",
        "",
        "Then the release is rolled back in the same tick, by one ledger write; an incident and an alert follow.",
        "",
    ]


def _telemetry(policy: ReleasePolicy) -> list[str]:
    rules = policy.telemetry
    return [
        "## When nothing can be concluded",
        "",
        f"Telemetry older than {rules.stale_minutes:g} minutes in either arm, devices split otherwise than assigned "
        f"(chi-square p < {rules.sample_ratio_p:g}),",
        f"or less than {rules.min_reporting_share:.0%} of the candidate's devices reporting, relative to the others: "
        "never a pass.",
        f"A device's assignment is a lease of {policy.lease_seconds / 60:g} minutes.",
        "",
    ]


def _authority(policy: ReleasePolicy) -> list[str]:
    lines = ["## Who may decide", ""]
    for decision, actors in policy.authority.items():
        who = "anyone" if ANYONE in actors else ", ".join(actors)
        lines.append(f"- {_SAID[decision]} (`{decision}`): {who}")
    return lines
