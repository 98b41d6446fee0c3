"""Dataset: approved labels become versioned, speaker-disjoint, gated dataset versions and frozen evaluation suites."""
