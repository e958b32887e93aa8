"""The training loop and what it keeps account of."""
