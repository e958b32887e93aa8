"""Choosing tokens, and going on for ever in constant memory."""
