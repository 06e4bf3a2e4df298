"""The exercises, by subject."""
