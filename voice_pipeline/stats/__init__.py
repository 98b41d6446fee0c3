"""Statistics the stages decide by: bootstrap, sequential tests, proportions, sketches, drift distances."""
