"""What can go wrong in an evaluation. Each message is one line: what happened, to which id, what to do now."""

from __future__ import annotations


class EvaluationError(Exception):
    """Base of everything an evaluation can refuse."""


class MissingManifestError(EvaluationError):
    """The manifest file is not there."""


class EmptyManifestError(EvaluationError):
    """The manifest lists no recording."""


class BadManifestLineError(EvaluationError):
    """A line of the manifest is no JSON object or lacks a field; the message gives its number."""


class MissingRecordingError(EvaluationError):
    """The manifest names a file that is not there."""


class UnreadableRecordingError(EvaluationError):
    """A recording is no audio that can be read, is empty, or is not mono."""


class RecordingSampleRateError(EvaluationError):
    """A recording has another sample rate than the model hears."""


class MissingSuiteError(EvaluationError):
    """No evaluation suite has been frozen, or not the one asked for."""


class EmptySuiteError(EvaluationError):
    """There is nothing to score: no clip, or no word in any reference."""


class UnknownArtifactError(EvaluationError):
    """No model version or bundle folder of that name can be loaded."""


class DifferentSuitesError(EvaluationError):
    """Two reports that are to be compared were made on two suites."""


class DeviceLabError(EvaluationError):
    """Base of everything for which a device-lab report is refused."""


class MalformedLabReportError(DeviceLabError):
    """The file is no JSON of a device-lab report."""


class ForeignLabReportError(DeviceLabError):
    """The report is about another bundle or model, or about another way of running one than devices have."""


class MistimedLabReportError(DeviceLabError):
    """The report is dated in the future, or before the bundle it names existed."""


class UnusableWakeWordError(EvaluationError):
    """A wake word cannot be spelled in the model's alphabet."""


class UnknownConditionError(EvaluationError):
    """A suite names a playing condition that this code cannot produce."""
