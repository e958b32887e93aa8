"""What a model carries from segment to segment."""
