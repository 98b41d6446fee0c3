"""Watches the fleet: windows of telemetry, input drift, concept drift, quality, and the incidents they open."""
