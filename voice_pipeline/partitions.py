"""The two ways in which work is cut: by the day a clip was captured, and by model."""

from __future__ import annotations

from dagster import DailyPartitionsDefinition, DynamicPartitionsDefinition

capture_date = DailyPartitionsDefinition(start_date="2026-01-01", end_offset=1)
model_version = DynamicPartitionsDefinition(name="model_version")
