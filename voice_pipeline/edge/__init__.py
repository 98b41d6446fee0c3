"""The HTTP face to devices and reviewers."""
