"""`policy/release.yaml` in plain words: `voice-pipeline policy explain release` and `docs/release-policy.md`."""

from __future__ import annotations

from pathlib import Path

from voice_pipeline.release.analysis.harm import error_of_a_test
from voice_pipeline.schema.policy_file import load_policy
from voice_pipeline.schema.release import EXPOSURE_PERCENT, Decision
from voice_pipeline.schema.release_policy import (
    ANYONE,
    FILE_NAME,
    Compatibility,
    Gates,
    Guardrails,
    ReleasePolicy,
    SliceMarginGate,
    Stage,
    WakeWordGate,
)

_SAID = {
    Decision.APPROVE: "sign a release off",
    Decision.REJECT: "reject a candidate",
    Decision.HOLD: "hold a rollout",
    Decision.RESUME: "resume a held rollout",
    Decision.ROLLBACK: "roll a release back",
    Decision.READMIT: "let come back what a person took back",
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
            *_apps(policy.compatibility),
            *_harm(policy.guardrails),
            *_telemetry(policy),
            *_authority(policy),
        ]
    ).rstrip("\n")


def _gates(gates: Gates) -> list[str]:
    noisy, margins = gates.noisy_wer_improvement, gates.slice_margins
    slices = ", ".join(f"`{name}`" for name in gates.coverage.required_slices)
    words = gates.wake_words
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
        f"more than its margin, certain at {margins.confidence:.0%}: {_margins(margins)} (absolute).",
        f"- **int8_delta**: int8 and float differ by at most {gates.int8_delta.max_delta:.1%} absolute.",
        f"- **latency**: p95 on one thread is at most {gates.latency.max_p95_ms:g} ms on every device class, by the "
        "device lab's reports; where it sent none the evaluating host stands in, and the verdict says so. A slower "
        "report that comes later stops the next step.",
        f"- **size**: the network, in the larger of its two forms, is at most: {size}.",
        "- **download**: the compressed archive that a device fetches (both forms of the network, language model, "
        f"golden sounds, cards, manifest, signature) is at most: {download}.",
        "- **wake_words**: of every wake word in `policy/evaluation.yaml`, the 95 % interval of false alarms an hour "
        f"lies within {words.max_false_alarms_per_hour:g}, that of the share found above "
        f"{words.min_detection_rate:.0%}.{_unsaid(words)}",
        f"- **coverage**: the suite has {gates.coverage.min_clips} clips, {gates.coverage.min_speakers} speakers, "
        f"{gates.coverage.min_words} words and the slices {slices}.",
        "",
    ]


def _unsaid(gate: WakeWordGate) -> str:
    words = ", ".join(f"`{phrase}`" for phrase in gate.may_be_uncovered)
    return f" Nobody need have said {words}." if words else ""


def _margins(gate: SliceMarginGate) -> str:
    """`accent: 2.0%` is a kind of slices, `accent:en-gb 1.0%` one slice."""
    named = [f"`{name}` {gate.margins[name]:.1%}" for name in sorted(gate.margins)]
    return ", ".join([*named, f"{'any other' if named else 'any'} {gate.max_regression:.1%}"])


def _sign_off(policy: ReleasePolicy) -> list[str]:
    locales = ", ".join(policy.gates.coverage.sensitive_locales) or "none"
    return [
        "## When a person must sign off",
        "",
        f"Too little coverage, a sensitive locale ({locales}), a wake word that the suite does not cover or has too",
        "little audio for, a slice that the policy names and nobody can judge, or no live model to compare with.",
        "A sign-off settles what was asked; a gate that asks later stops the next step. Only the first model",
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
            f"| {stage.noninferiority_margin:.0%} | {_silence(stage)} |"
        )
    return [
        "## The way to production",
        "",
        "A policy that skips a stage does not parse.",
        "",
        "| stage | devices exposed | at least | devices | dictations | margin | margin of silence |",
        "|---|---|--:|--:|--:|--:|--:|",
        *rows,
        "| production | 100 % | | | | | |",
        "",
        "A stage is passed when the correction rate, by device, is shown not to be worse by more than the margin of",
        "the stage, in a canary no guardrail below by more than its own, and silence by no more than the stage says",
        "(a stage that says nothing has too few devices to show it; silence that harms is looked for all the same).",
        f"Devices take the candidate within their lease, {policy.lease_seconds / 60:g} minutes, and are silent once "
        f"nothing was heard for {policy.guardrails.silence_minutes:g}:",
        "no stage that tests silence is shorter than both together.",
        f"Tests are one-sided at {promotion.alpha:g}, spent over at most {promotion.max_looks} looks by a",
        "group-sequential rule; looks are spaced by the stage's time. And p95 latency must be at most",
        f"{promotion.max_latency_ratio:g} times the live model's. Not shown after {promotion.max_looks} looks:",
        "held for a person. Shown to be worse: rolled back.",
        "In a guardrail each device counts by how much it was used before the rollout, so that whom the model drives",
        "away counts no less for having gone.",
        "A person who resumes a held stage, or readmits a release that a person ended, grants as many looks again,",
        f"with half the error of those before: at most {2 * promotion.alpha:g} in all at a stage, however often.",
        "What a resumed stage has shown is kept.",
        "What looks have spent stays spent: where this policy changes within a stage, later looks have what its error",
        "leaves beyond that, and where it leaves nothing, the release is held. Whoever allows more error because of",
        "what looks have shown chooses it by the data: then the rates that are said here hold no longer.",
        f"Nothing concluded for {policy.telemetry.hold_after_minutes / 60:g} hours: held for a person.",
        "",
        "How often these rules err, simulated: [error rates](error-rates.md).",
        "",
    ]


def _silence(stage: Stage) -> str:
    return f"{stage.silence_margin:.0%}" if stage.silence_margin is not None else "–"


def _apps(rules: Compatibility) -> list[str]:
    last = "; ".join(f"format {number}: app {app}" for number, app in sorted(rules.last_app_of_format.items()))
    return [
        "## Which apps run a model",
        "",
        "Those from the bundle's `min_app_version` on, to the last app that reads its manifest's format: "
        f"{last or 'every later one'}.",
        "An app outside the range of the live model keeps the newest live model before it that it runs, or has none.",
        "",
    ]


def _harm(rules: Guardrails) -> list[str]:
    per_test = error_of_a_test(rules)
    return [
        "## Harm",
        "",
        "Tested at every tick by bounds that hold at all times together; each device counts once a stage, with its",
        f"first {rules.dictations_per_device} dictations, or with those that it made before it was quiet for "
        f"{rules.silence_minutes:g} minutes.",
        "Nothing is assumed of who comes first, but of the draw of arms, and that devices take the candidate soon",
        "against how often they are used. Then the chance of ever rolling back a harmless",
        f"model is at most {rules.alpha:g} a rollout: one budget, half for these tests ({per_test:.4f} each),",
        "half for looks that find a model inferior.",
        "Every device that the candidate is offered to counts, also one whose app is too old for the live model; it is",
        "compared with what such apps run, and where they run nothing, with all others (the chance above leaves these",
        "out). Only devices that run both models can promote. Harm that sits on few devices a small canary may miss.",
        "Harm is certain when a share of dictations exceeds that of the others by more than:",
        "",
        f"- words corrected: {rules.correction_rate:.0%}",
        f"- slower, for the length of the speech, than {rules.slow_ratio:g} times the p95 of the real-time factor "
        f"before the rollout on that device class: {rules.slow:.0%}",
        f"- crashed: {rules.crash:.0%}; abandoned: {rules.abandonment:.0%}; fallen back: {rules.fallback:.0%}",
        f"- failed in any of these ways: {rules.failure:.0%}",
        f"- devices that say nothing for {rules.silence_minutes:g} minutes, at the start or later: {rules.silence:.0%}",
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
        f"less than {rules.min_reporting_share:.0%} of the candidate's devices reporting, relative to the others, or "
        f"less than {rules.min_heard_share:.0%} of the devices",
        "that were active before the stage: never a pass.",
        f"A device's assignment is a lease of {policy.lease_seconds / 60:g} minutes.",
        "",
    ]


def _authority(policy: ReleasePolicy) -> list[str]:
    lines = ["## Who may decide", ""]
    lines += [
        "People are enrolled with a key, by name and role; a decision counts when it is signed by one who may:",
        "",
    ]
    for decision, actors in policy.authority.items():
        lines.append(f"- {_SAID[decision]} (`{decision}`): {_who(actors)}")
    lines += [
        "",
        "Overriding a gate that a bundle failed (`override`), for exactly this bundle under exactly this policy,",
    ]
    lines += [
        f"for {policy.gates.max_age_days:g} days; no other gate can be overridden, and no stage, look or sample:",
        "",
    ]
    lines += [f"- **{gate}**: {_who(actors)}" for gate, actors in policy.overrides.items()] or ["- none"]
    lines += ["", f"Who may enrol and remove people, by a signature, too (`people`): {_who(policy.people)}."]
    return lines


def _who(named: tuple[str, ...]) -> str:
    return "anyone who is enrolled" if ANYONE in named else ", ".join(named) or "nobody"
