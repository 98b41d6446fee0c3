"""INTEGRATION.md of an export: what an app's engineer needs, all of it from the manifest and the bundle's files."""

from __future__ import annotations

import json
from pathlib import Path

from voice_pipeline.packaging.platforms import REDUCED, SHIPPED, AppPlatform
from voice_pipeline.schema.bundle import BundleManifest
from voice_pipeline.trust import MANIFEST

PURPOSE = {
    "model.onnx": "the network, for any ONNX Runtime",
    "model.ort": "the same network, for a minimal build of ONNX Runtime",
    "tokenizer.json": "the class of the blank, and the character of every other class in order",
    "decoder.json": "how posteriors become text; without it the best class of every frame (greedy)",
    "lm.arpa": "the language model of the decoder",
    "confidence.json": "weights of the calibrated confidence",
}
INTO_THE_APP: dict[AppPlatform, str] = {
    AppPlatform.ANDROID: (
        "Copy `src/` into the app's module. Assets are no files: copy `dictation/` out into `filesDir` before anything "
        "in it is opened by its path."
    ),
    AppPlatform.IOS: (
        "Add `Dictation.bundle` to the app's target (Copy Bundle Resources); at run time it is "
        '`Bundle.main.url(forResource: "Dictation", withExtension: "bundle")`.'
    ),
    AppPlatform.DESKTOP: "Install this folder with the app, where only an installer can write.",
}
REDUCED_BUILD = """
## A smaller ONNX Runtime

`required_operators.config` lists the operators of `model.ort`, `required_operators_and_types.config` also the types of
their inputs: build ONNX Runtime {written_by} or newer with `--minimal_build --include_ops_by_config FILE`, for the
latter with `--enable_reduced_operator_type_support` as well. Such a build loads `model.ort` only.
"""
NOTES = """# Dictation model {version} in an app for {platform}

Bundle digest `{digest}`. {into}

The reference client of `voice_pipeline` (Python) takes {shipped} as `shipped`: it verifies the bundle, runs it from the
first start on without a network, and goes on from `root.json` to take updates over the air. An app in another language
does the same with a TUF client of that language; "Run the bundle in your app" in the README of `voice_pipeline` has a
whole program over plain ONNX Runtime, 30 lines that show every step.

## What it needs

- App {min_app} or newer; ONNX Runtime: {runtimes} (opset {opset}).
- Input `{input_name}`: float32, shape (1, samples), mono, {sample_rate} Hz, in [-1, 1], up to 30 s at once; what has
  fewer than {shortest} samples gets silence behind it.
- Output `{output_name}`: float32, shape (1, frames, {classes}), log-probabilities; a frame stands for {shift} s.
- Decoder: {decoder}. (Greedy: the best class of every frame, repeats once, class {blank}, the blank, not at all.)
- `confidence.json`: weights of a logistic regression over what `voice_pipeline/speech/confidence.py` measures of an
  answer; without it there is no calibrated confidence.

## Files of `{model_folder}/`

| file | bytes | sha256 | |
|---|--:|---|---|
{files}

`{signature}` beside it is the signature over all of them (OpenSSF model-signing).

## Check it

```sh
voice-pipeline bundle verify {model_folder} --root {root}
```

checks every file and the signature with the key in `root.json`. Then the network has to answer these sounds like this,
on every kind of device that the app supports. It is what this very model makes of them, right or wrong;
`log_probs_mean` is the mean of all that the network gives:

| sound | text | log_probs_mean | at most off by |
|---|---|--:|--:|
{golden}

`{version}.cdx.json` is the bill of materials (CycloneDX 1.6).
"""


def integration_notes(manifest: BundleManifest, bundle: Path, platform: AppPlatform) -> str:
    """Markdown for the engineer who builds the app.

    Args:
        bundle: the bundle's folder; `tokenizer.json` and `decoder.json` are read from it.
    """
    tokenizer = json.loads((bundle / "tokenizer.json").read_text())
    decoder = bundle / "decoder.json"
    kind = json.loads(decoder.read_text())["kind"] if decoder.is_file() else "greedy"
    shipped = SHIPPED[platform]
    inside = "" if shipped == "." else f"{shipped}/"
    notes = NOTES.format(
        version=manifest.model_version,
        platform=platform.value,
        digest=manifest.digest,
        into=INTO_THE_APP[platform],
        shipped="this folder" if shipped == "." else f"`{shipped}`",
        shortest=manifest.shortest_input,
        blank=tokenizer["blank"],
        min_app=manifest.min_app_version,
        runtimes=", ".join(f"`{runtime}`" for runtime in manifest.runtimes),
        opset=manifest.opset,
        input_name=manifest.input_name,
        output_name=manifest.output_name,
        sample_rate=manifest.sample_rate,
        classes=len(tokenizer["alphabet"]) + 1,
        shift=manifest.frame_shift_s,
        decoder=kind,
        model_folder=inside + manifest.model_version,
        signature=f"{inside}{manifest.model_version}.sig",
        root=f"{inside}root.json",
        files="\n".join(_files(manifest)),
        golden="\n".join(
            f"| `{vector.path}` | {vector.text} | {vector.log_probs_mean:.6f} | {vector.tolerance} |"
            for vector in manifest.golden
        ),
    )
    written_by = manifest.environment.get("onnxruntime", "of `manifest.json`'s environment")
    return notes + (REDUCED_BUILD.format(written_by=written_by) if platform in REDUCED else "")


def _files(manifest: BundleManifest) -> list[str]:
    own = f"| `{MANIFEST}` | | the bundle digest | all of this for programs |"
    return [
        own,
        *(f"| `{f.path}` | {f.length} | {f.sha256} | {PURPOSE.get(f.path, '')} |" for f in manifest.files),
    ]
