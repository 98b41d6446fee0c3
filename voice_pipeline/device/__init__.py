"""The reference client of a device: asks which model to run, fetches and verifies it, recognises, reports."""
