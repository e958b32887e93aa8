"""Published weights: one file per format, read and written."""
