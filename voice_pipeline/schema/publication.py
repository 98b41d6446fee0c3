"""Names that the publisher, devices and the release gates have to agree on."""

from __future__ import annotations

SIGNING_KEY_FIELD = "x-bundle-signing-key"
"""Field of a root of the update repository: PEM of the public keys that bundles are signed with, the current first."""

SIGNING_PUBLIC_KEY = "bundle-signing.pub"
"""File under `settings.keys` with the same keys, for whoever verifies a bundle at home."""

PUBLISHED = "bundle_published"
"""Kind of the ledger line that tells, once a bundle is on offer, digest and length of its archive."""
