"""The self-closing, governed loop around an on-device dictation model."""
