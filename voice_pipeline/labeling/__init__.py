"""Labeling: triage, blind review, adjudication, closed batches."""
