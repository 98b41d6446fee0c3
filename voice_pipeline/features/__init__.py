"""Features: scalars per clip and per device profile, in Feast, joined point in time."""
