"""How sources become the output of attention."""
