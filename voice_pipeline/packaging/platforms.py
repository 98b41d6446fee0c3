"""What an app is built for, and where its build wants a bundle."""

from __future__ import annotations

from enum import StrEnum

EXPORTED = "bundle_exported"
"""Kind of the ledger line (subject: bundle digest) that tells which platform's apps a bundle was exported for."""


class AppPlatform(StrEnum):
    """What an app is built for."""

    ANDROID = "android"
    IOS = "ios"
    DESKTOP = "desktop"


SHIPPED: dict[AppPlatform, str] = {
    AppPlatform.ANDROID: "src/main/assets/dictation",
    AppPlatform.IOS: "Dictation.bundle",
    AppPlatform.DESKTOP: ".",
}
"""Where in an export everything lies that goes into the app."""
REDUCED = frozenset({AppPlatform.ANDROID, AppPlatform.IOS})
"""Platforms whose apps may build an ONNX Runtime with only what their models need."""
