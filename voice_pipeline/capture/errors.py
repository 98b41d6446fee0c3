"""Errors of capture. Each says what happened, to which id, and what to do now."""

from __future__ import annotations


class CaptureError(Exception):
    """Any failure of capture that its caller can act on."""


class UnknownConsentError(CaptureError):
    """No receipt with this consent id is recorded."""


class LostAudioError(CaptureError):
    """Acknowledged audio is missing from the blob store or was changed there; the clips stay in the inbox."""


class NoiseImportError(CaptureError):
    """A list of noises, or a recording that it names, cannot be used."""
