"""From a frozen dataset to weights, with their evaluation and model card."""
