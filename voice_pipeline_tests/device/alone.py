"""A whole device life in an interpreter that can import nothing but what a device needs; `test_alone.py` runs it.

    python alone.py HOME EDGE_URL SHIPPED LIFE

HOME is the device's, SHIPPED what came with its app, LIFE a JSON file that says what is expected. Allowed are the
standard library, the distributions of `NEEDED` with all that they require, and this project's ground floor; any other
import ends in an `ImportError`, as it would where it is not installed.
"""

import importlib.metadata
import json
import re
import sys
from datetime import datetime
from pathlib import Path

NEEDED = ("onnxruntime", "tuf", "securesystemslib[crypto]", "httpx", "numpy", "pydantic")
OWN = ("voice_pipeline.device", "voice_pipeline.speech", "voice_pipeline.schema", "voice_pipeline.trust")
REQUIREMENT = re.compile(r"^([A-Za-z0-9._-]+)\s*(?:\[([^\]]*)\])?")


def normal(name):
    """A distribution's name in one spelling (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def closure(needed):
    """Names of `needed` and of all they require here, extras only where they are asked for."""
    from packaging.requirements import Requirement

    found, waiting = set(), [Requirement(one) for one in needed]
    while waiting:
        asked = waiting.pop()
        seen = {(normal(asked.name), extra) for extra in ("", *asked.extras)}
        if seen <= found:
            continue
        found |= seen
        try:
            requires = importlib.metadata.requires(asked.name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # for another platform
        for line in requires:
            requirement = Requirement(line)
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *asked.extras)):
                waiting.append(requirement)
    return {name for name, _ in found}


def first_two_levels(name):
    """`package.module` of all that a distribution brings: namespaces (`google`) are shared."""
    try:
        files = importlib.metadata.files(name) or []
    except importlib.metadata.PackageNotFoundError:
        return set()
    return {f"{file.parts[0]}.{file.parts[1].partition('.')[0]}" for file in files if len(file.parts) > 1}


class Refusal:
    """First on `sys.meta_path`: lets nothing through that belongs to a distribution outside `allowed`."""

    def __init__(self, allowed):
        self.owners = importlib.metadata.packages_distributions()
        self.allowed = allowed
        self.pairs = {pair for name in allowed for pair in first_two_levels(name)}

    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top == "voice_pipeline":
            good = name == top or name.startswith(OWN)
        elif top in sys.stdlib_module_names or top not in self.owners:
            good = True
        else:
            owners = {normal(owner) for owner in self.owners[top]}
            within = ".".join(name.split(".")[:2])
            good = owners <= self.allowed or (bool(owners & self.allowed) and (name == top or within in self.pairs))
        if not good:
            raise ModuleNotFoundError(f"{name} is not among what a device needs", name=name)
        return None


def main(home, url, shipped, life):
    allowed = closure(NEEDED)
    assert not [name for name in sys.modules if name.partition(".")[0] in ("numpy", "pydantic", "httpx")]
    refusal = Refusal(allowed)
    for name in [name for name in sys.modules if name.partition(".")[0] == "packaging"]:
        del sys.modules[name]
    loaded = {name.partition(".")[0] for name in sys.modules}  # by the interpreter's own start
    sys.meta_path.insert(0, refusal)
    report = live(Path(home), url, Path(shipped), json.loads(Path(life).read_text()))
    report["not_importable"] = sorted(name for name in report.pop("try") if not importable(name))
    tops = {name.partition(".")[0] for name in sys.modules} - loaded
    owners = {top: {normal(owner) for owner in refusal.owners.get(top, [])} - {"voice-pipeline"} for top in tops}
    report["strangers"] = sorted(top for top, of in owners.items() if of and not of & allowed)
    report["imported"] = sorted(set().union(*owners.values()) & allowed)
    sys.stdout.write(json.dumps(report))


def importable(name):
    try:
        __import__(name)
    except ImportError:
        return False
    return True


class Fixed:
    """A clock that stands still."""

    def __init__(self, text):
        self.time = datetime.fromisoformat(text)

    def now(self):
        return self.time


def live(home, url, shipped, life):
    """Start from what came with the app, poll, fetch, verify, swap, dictate here and afar, report, deliver."""
    import httpx

    from voice_pipeline.device.client import DeviceClient
    from voice_pipeline.schema.clip import CaptureEvent, DeviceContext
    from voice_pipeline.schema.telemetry import TelemetryEvent
    from voice_pipeline.speech.measures import measure, speaking_rate
    from voice_pipeline.speech.wav import read_wav

    samples = read_wav(Path(life["sound"]).read_bytes())
    context = DeviceContext.model_validate(life["context"])
    with httpx.Client(timeout=20) as http:
        root = (shipped / "root.json").read_bytes()
        device = DeviceClient(
            home, url, http, "device-0001", context, root, Fixed(life["now"]), shipped, remote_allowed=True
        )
        first = device.transcribe(samples)
        device.poll()
        done = device.update()
        second = device.transcribe(samples)
        device.remote_allowed = False
        third = device.transcribe(samples)
        heard = measure(samples)
        bands = ("band_low", "band_mid", "band_high")
        scalars = ("duration_s", "snr_db", "loudness_dbfs", "clipping", "spectral_tilt", *bands)
        event = TelemetryEvent(
            event_id="event-00001",
            device_id=device.device_id,
            at=device._clock.now(),
            context=context,
            model_version=third.model_version,
            words=len(third.text.split()),
            corrected_words=0,
            confidence=third.confidence,
            latency_ms=third.latency_ms,
            fallback=third.fallback,
            answered=third.answered,
            speaking_rate=speaking_rate(third.text, heard.duration_s),
            **{name: getattr(heard, name) for name in scalars},
        )
        clip = CaptureEvent.model_validate(life["clip"])
        kept = [device.report([event]), device.offer(clip, Path(life["sound"]).read_bytes())]
        delivered = device.flush()
        device.close()
    answers = [(one.model_version, one.answered.value, one.fallback) for one in (first, second, third)]
    return {
        "answers": answers,
        "downloaded": list(done.downloaded),
        "kept": kept,
        "sent": delivered.sent,
        "try": life["try"],
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
