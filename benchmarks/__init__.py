"""Measurements that anyone can run: how fast, at what cost, how good."""
