"""Stored state: databases, blobs, vault, ledger, shards. Stands on schema and settings."""
