"""How good a recogniser is: frozen suites, noise, word error rates by slice with intervals over speakers.

Shared by training, packaging, release and the CLI. Stands on schema, store, speech and stats.
"""
