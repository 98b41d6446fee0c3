"""Stage 1: what devices send becomes catalogued clips, or lies in quarantine with a reason."""
