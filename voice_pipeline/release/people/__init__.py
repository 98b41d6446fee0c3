"""Who may decide about releases, and what they signed."""
