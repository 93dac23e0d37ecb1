"""Bounds from bandwidth and compute, and servers needed for a demand."""
