"""What a bundle must show on the frozen suite, and the evidence that promotes it."""
