"""What the telemetry of a stage shows: harm, or ready to go on, or nothing."""
