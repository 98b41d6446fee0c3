"""What people read of a rollout: tables, charts, the record in the Dagster UI."""
