"""Speech to tell a story with: recordings listed in a manifest, or synthesised voices.

A manifest is JSON Lines beside its recordings; each line has path, text, speaker, and where known accent, gender, age,
duration_s, corpus, split (`train` or `test`), licence, and of the device it was made with device_class, os,
app_version, microphone, locale (`schema.clip.DeviceContext`). A recording without a speaker counts as a speaker of its
own. Recordings are 16 kHz mono. Audio is read when asked for.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from voice_pipeline.fleet.errors import CorpusError
from voice_pipeline.fleet.phrases import Phrase, dictation, digits, pronounceable, written
from voice_pipeline.fleet.voices import HOME_ACCENTS, NEW_ACCENTS, VARIANTS, Synthesiser, Voice
from voice_pipeline.schema.alphabet import LOWERCASE
from voice_pipeline.schema.clip import UNKNOWN_DEVICE, DeviceContext
from voice_pipeline.speech import audio
from voice_pipeline.speech.audio import SAMPLE_RATE, Samples
from voice_pipeline.speech.errors import AudioError
from voice_pipeline.speech.normalise import normalise

TEST_SHARE = 0.15


@dataclass(frozen=True)
class CorpusClip:
    """One utterance: what was said, by whom, and how to hear it."""

    name: str
    text: str
    speaker: str
    accent: str
    gender: str
    age: str
    split: str
    corpus: str
    read: Callable[[], Samples]
    context: DeviceContext = UNKNOWN_DEVICE

    def samples(self) -> Samples:
        """float32 mono 16 kHz in [-1, 1]. Raises `CorpusError`."""
        return self.read()


def load_corpus(folder: Path) -> list[CorpusClip]:
    """All clips of `folder/manifest.jsonl`; each recording's header is checked now, its audio read later.

    Raises:
        CorpusError: names the file or line that is wrong and what is wrong with it.
    """
    manifest = folder / "manifest.jsonl"
    try:
        lines = manifest.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise CorpusError(f"corpus {folder} has no manifest.jsonl; give a folder that lists its recordings") from error
    except (OSError, UnicodeDecodeError) as error:
        raise CorpusError(f"manifest {manifest} cannot be read: {error}") from error
    clips = [_clip(folder, manifest, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not clips:
        raise CorpusError(f"manifest {manifest} lists no recording; add one JSON object a line")
    return clips


def _clip(folder: Path, manifest: Path, number: int, line: str) -> CorpusClip:
    where = f"manifest {manifest} line {number}"
    try:
        row: dict[str, Any] = json.loads(line)
        path, text, speaker = (row[field] for field in ("path", "text", "speaker"))
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise CorpusError(f"{where} is not a JSON object with path, text and speaker: {error}") from error
    if not all(isinstance(value, str) for value in (path, text, speaker)) or not path:
        raise CorpusError(f"{where}: path, text and speaker must be strings, and path not empty")
    file = folder / path
    _check_header(file, where)
    return CorpusClip(
        name=path,
        text=text,
        speaker=speaker or f"unlabelled:{path}",
        accent=str(row.get("accent") or ""),
        gender=str(row.get("gender") or ""),
        age=str(row.get("age") or ""),
        split="test" if row.get("split") == "test" else "train",
        corpus=str(row.get("corpus") or folder.name),
        read=lambda: _read(file, where),
        context=_context(row, where),
    )


def _context(row: dict[str, Any], where: str) -> DeviceContext:
    """What the line says of the device; what it does not say stays unknown."""
    told = {name: row[name] for name in DeviceContext.model_fields if row.get(name)}
    try:
        return DeviceContext.model_validate({**UNKNOWN_DEVICE.model_dump(), **told})
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc']))} {e['input']!r}: {e['msg']}" for e in error.errors())
        raise CorpusError(f"{where} describes no device: {wrong}; leave out what is not known") from error


def _check_header(file: Path, where: str) -> None:
    import soundfile

    if not file.is_file():
        raise CorpusError(f"{where} names {file}, which does not exist")
    try:
        info = soundfile.info(str(file))
    except (soundfile.SoundFileError, RuntimeError) as error:
        raise CorpusError(f"{where} names {file}, which is no readable audio: {error}") from error
    if info.samplerate != SAMPLE_RATE or info.channels != 1:
        raise CorpusError(
            f"{where} names {file} with {info.samplerate} Hz and {info.channels} channels; convert it to 16000 Hz mono"
        )


def _read(file: Path, where: str) -> Samples:
    try:
        return audio.load(file)
    except AudioError as error:
        raise CorpusError(f"{where}: {error}") from error


def synthesise_corpus(
    seed: int, clips: int, speakers: int, alphabet: str = LOWERCASE
) -> tuple[list[CorpusClip], list[CorpusClip]]:
    """Census-style dictation by home voices, and digits by foreign voices (the new population).

    Every sixth or so home speaker is a test speaker. Audio is synthesised when asked for; equal arguments give equal
    samples.

    Args:
        clips: of the home population; the new population has a quarter as many, at least 60.
        speakers: of the home population.
        alphabet: references are written in it; what is said does not depend on it.

    Raises:
        CorpusError: no clip, or fewer than two speakers.
        SynthesisError: eSpeak NG is not installed.
    """
    if clips < 1 or speakers < 2:
        raise CorpusError(f"{clips} clips by {speakers} speakers are too few; ask for a clip and two speakers at least")
    rng = random.Random(seed)
    synthesiser = Synthesiser()
    home = _population(rng, synthesiser, HOME_ACCENTS, "home", speakers, clips, dictation)
    new = _population(rng, synthesiser, NEW_ACCENTS, "new", max(6, speakers // 4), max(60, clips // 4), digits)
    return _written_in(alphabet, home), _written_in(alphabet, new)


def _written_in(alphabet: str, clips: list[CorpusClip]) -> list[CorpusClip]:
    return [replace(clip, text=normalise(written(clip.text), alphabet)) for clip in clips]


def _population(
    rng: random.Random,
    synthesiser: Synthesiser,
    accents: dict[str, str],
    name: str,
    speakers: int,
    clips: int,
    say: Phrase,
) -> list[CorpusClip]:
    voices = list(_voices(rng, accents, speakers))
    tested = set(rng.sample(range(speakers), max(1, round(speakers * TEST_SHARE))))
    return [
        _spoken(synthesiser, voices[n % speakers], say(rng), f"{name}-{n}", f"synthetic:{name}-{n % speakers}",
                "test" if n % speakers in tested else "train", f"synthetic_{name}")
        for n in range(clips)
    ]  # fmt: skip


def _voices(rng: random.Random, accents: dict[str, str], speakers: int) -> Iterator[Voice]:
    names = list(accents)
    for n in range(speakers):
        variant, gender = VARIANTS[n // len(names) % len(VARIANTS)]
        yield Voice(
            name=f"{names[n % len(names)]}+{variant}",
            accent=accents[names[n % len(names)]],
            gender=gender,
            rate=rng.randint(135, 185),
            pitch=rng.randint(35, 65),
        )


def _spoken(
    synthesiser: Synthesiser, voice: Voice, text: str, name: str, speaker: str, split: str, corpus: str
) -> CorpusClip:
    words = pronounceable(text)
    return CorpusClip(
        name=name,
        text=text,
        speaker=speaker,
        accent=voice.accent,
        gender=voice.gender,
        age="",
        split=split,
        corpus=corpus,
        read=lambda: synthesiser.speak(words, voice),
    )
