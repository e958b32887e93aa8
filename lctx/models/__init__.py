"""Bodies: how parts become a model."""
