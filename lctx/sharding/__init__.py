"""The mesh, and how arrays lie on it: the only room that knows devices."""
