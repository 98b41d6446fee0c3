"""Simulated devices, speakers and reviewers: what stands in for the field. No stage imports it."""
