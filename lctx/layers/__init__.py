"""The small parts of a layer."""
